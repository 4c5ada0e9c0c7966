# cmake --install: programs, presets, samples, documentation, and what programs print of their own tables: man pages,
# completion for shells, syntax files for editors. The target `uninstall` removes all of it again.
set(programs hep-run)
if(HEP_BUILD_COMPILER)
  list(PREPEND programs hepc)
endif()
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME hep)
install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET hep-cuda)
  install(TARGETS hep-cuda LIBRARY DESTINATION ${HEP_PLUGIN_FOLDER} COMPONENT cuda)
  install(TARGETS hep-library-cuda LIBRARY DESTINATION ${HEP_PLUGIN_FOLDER} COMPONENT gpu)
endif()
install(DIRECTORY presets/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/presets FILES_MATCHING PATTERN "*.hep")
install(DIRECTORY samples/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/samples)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md" PATTERN "*.svg"
  PATTERN "*.schema.json")
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

# libhep: what programs load, and what they are built with.
set(HEP_STATIC_LIBS "-lnettle -lz -lm -lpthread")
if(HEP_HAVE_MPI)
  list(JOIN MPI_C_LIBRARIES " " mpi_libraries)
  string(APPEND HEP_STATIC_LIBS " ${mpi_libraries}")
endif()
set(hep_config_folder ${CMAKE_INSTALL_LIBDIR}/cmake/hep)
file(RELATIVE_PATH HEP_PREFIX_FROM_CONFIG /prefix/${hep_config_folder} /prefix)
configure_file(scripts/cmake/hepConfig.cmake.in ${CMAKE_BINARY_DIR}/hepConfig.cmake @ONLY)
include(CMakePackageConfigHelpers)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/hepConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(TARGETS hep_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT development)
install(FILES ${CMAKE_BINARY_DIR}/lib/libhep.a DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(FILES runtime/hep.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(FILES ${CMAKE_BINARY_DIR}/hepConfig.cmake ${CMAKE_BINARY_DIR}/hepConfigVersion.cmake
  DESTINATION ${hep_config_folder} COMPONENT development)
# The prefix may be given to cmake --install.
install(CODE "
  set(HEP_STATIC_LIBS \"${HEP_STATIC_LIBS}\")
  set(PROJECT_VERSION \"${PROJECT_VERSION}\")
  set(CMAKE_INSTALL_LIBDIR \"${CMAKE_INSTALL_LIBDIR}\")
  set(CMAKE_INSTALL_INCLUDEDIR \"${CMAKE_INSTALL_INCLUDEDIR}\")
  configure_file(\"${CMAKE_SOURCE_DIR}/scripts/cmake/hep.pc.in\" \"${CMAKE_BINARY_DIR}/hep.pc\" @ONLY)
  file(INSTALL DESTINATION \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/pkgconfig\" TYPE FILE
    FILES \"${CMAKE_BINARY_DIR}/hep.pc\")" COMPONENT development)

# The Python package: as Debian has it, beside libhep0; and what a wheel brings along (python/pyproject.toml).
install(DIRECTORY python/hep DESTINATION lib/python3/dist-packages COMPONENT python FILES_MATCHING PATTERN "*.py"
  PATTERN "py.typed")
install(FILES $<TARGET_FILE:hep_shared> DESTINATION lib RENAME libhep.so.0 COMPONENT wheel EXCLUDE_FROM_ALL)

# All that is installed and not in the source tree.
add_custom_target(programs DEPENDS ${programs} hep_shared hep_static)
if(TARGET hep-library-cuda)
  add_dependencies(programs hep-library-cuda)
endif()

# zsh of Debian looks for what packages bring elsewhere than for what administrators install.
function(hep_install_zsh file)
  install(CODE "
    set(folder site-functions)
    if(CMAKE_INSTALL_PREFIX MATCHES \"/usr$\")
      set(folder vendor-completions)
    endif()
    file(INSTALL DESTINATION \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}/zsh/\${folder}\" TYPE FILE FILES \"${file}\")"
    COMPONENT hep)
endfunction()

set(generated ${CMAKE_BINARY_DIR}/generated) # by hep_generate
if(NOT CMAKE_CROSSCOMPILING)
  foreach(program IN LISTS programs)
    install(FILES ${generated}/${program}.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES ${generated}/bash/${program} DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
    install(FILES ${generated}/fish/${program}.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
    hep_install_zsh(${generated}/zsh/_${program})
  endforeach()
  if(HEP_BUILD_COMPILER)
    install(FILES ${generated}/hep.vim DESTINATION ${CMAKE_INSTALL_DATADIR}/vim/vimfiles/syntax)
    install(DIRECTORY scripts/editors/vim/ DESTINATION ${CMAKE_INSTALL_DATADIR}/vim/vimfiles)
    install(DIRECTORY scripts/editors/vscode/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/vscode)
    install(FILES ${generated}/hep.tmLanguage.json DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/vscode/syntaxes)
  endif()
endif()

add_custom_target(uninstall COMMAND ${CMAKE_COMMAND} -DMANIFEST=${CMAKE_BINARY_DIR}/install_manifest.txt
  -P ${CMAKE_SOURCE_DIR}/scripts/cmake/HepUninstall.cmake VERBATIM)
