# Runs a program once per file that it prints from its own tables:
#   cmake -DPROGRAM=bin/hepc "-DFILES=man=man/hepc.1;bash=completion/hepc" -P HepGenerate.cmake
foreach(file IN LISTS FILES)
  string(REGEX MATCH "^([a-z]+)=(.*)$" file ${file})
  set(kind ${CMAKE_MATCH_1})
  set(path ${CMAKE_MATCH_2})
  get_filename_component(folder ${path} DIRECTORY)
  file(MAKE_DIRECTORY ${folder})
  execute_process(COMMAND ${PROGRAM} --generate=${kind} OUTPUT_FILE ${path} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    file(REMOVE ${path})
    message(FATAL_ERROR "${PROGRAM} --generate=${kind} failed: ${result}")
  endif()
endforeach()
