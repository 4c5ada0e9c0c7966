# cmake --install: programs, samples, documentation, and man pages made from --help.

set(programs hep-run)
if(HEP_BUILD_COMPILER)
  list(PREPEND programs hepc)
endif()
install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY presets/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/presets FILES_MATCHING PATTERN "*.hep")
install(DIRECTORY samples/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/samples)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md" PATTERN "*.svg")
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

# All that is installed and not in the source tree.
add_custom_target(programs DEPENDS ${programs})

find_program(HELP2MAN help2man)
set(hepc_purpose "compile a model and a cluster into a communication plan for MoE training")
set(hep-run_purpose "execute a communication plan")
if(HELP2MAN AND NOT HEP_SANITIZE)
  foreach(program IN LISTS programs)
    set(page ${CMAKE_BINARY_DIR}/man/${program}.1)
    # help2man gives the program to a shell without quotes: in its own folder the name is safe, whatever the path.
    add_custom_command(OUTPUT ${page}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/man
      COMMAND ${HELP2MAN} --no-info --name=${${program}_purpose} --output=${page} ./${program}
      WORKING_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} DEPENDS ${program} VERBATIM)
    add_custom_target(man-${program} ALL DEPENDS ${page})
    add_dependencies(programs man-${program})
    # Optional: a build of the program alone can be installed, too.
    install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 OPTIONAL)
  endforeach()
endif()
