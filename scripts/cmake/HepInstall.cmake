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
endif()
install(DIRECTORY presets/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/presets FILES_MATCHING PATTERN "*.hep")
install(DIRECTORY samples/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hep/samples)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md" PATTERN "*.svg")
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

# All that is installed and not in the source tree.
add_custom_target(programs DEPENDS ${programs})

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
