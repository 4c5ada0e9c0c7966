# Build options and the flags every target gets.
option(HEP_WERROR "Treat warnings as errors" OFF)
option(HEP_TESTS "Build the tests" ON)
set(HEP_TEST_BUILD "" CACHE STRING "Build the tests that run in a build of this name alone; empty: all")
option(HEP_FUZZ "Build libFuzzer targets (needs clang)" OFF)
option(HEP_CUDA "Look for a CUDA toolkit" ON)
option(HEP_CUDA_KERNELS "Compile CUDA kernels; OFF: the tests' emulation alone" ON)
option(HEP_CUDA_FAST_COMPILE "Hardly optimise CUDA kernels: for builds that only check that they compile" OFF)
option(HEP_EMULATION "Test CUDA code on the processor, too" ON)
option(HEP_MPI "Look for MPI" ON)
set(HEP_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING "What CUDA kernels are compiled for")
set(HEP_SANITIZE "" CACHE STRING "Sanitizers for every target, e.g. address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
# Sanitizers without any optimisation make the tests crawl. Lines are enough for what they report; -g takes a fifth longer
# to compile.
set(CMAKE_C_FLAGS_DEBUG "-g1 -O1")
set(CMAKE_CXX_FLAGS_DEBUG "-g1 -O1")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-g1 -O2 -DNDEBUG")
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

# Programs find what is installed with them relative to themselves; the build tree is laid out in the same way.
include(GNUInstallDirs)
set(HEP_PLUGIN_FOLDER lib/hep) # also where libraries have a folder per architecture: no other program looks for these
file(RELATIVE_PATH HEP_PLUGINS_FROM_PROGRAM /prefix/${CMAKE_INSTALL_BINDIR} /prefix/${HEP_PLUGIN_FOLDER})
file(RELATIVE_PATH HEP_PLUGINS_FROM_LIBRARY /prefix/${CMAKE_INSTALL_LIBDIR} /prefix/${HEP_PLUGIN_FOLDER})
file(RELATIVE_PATH HEP_SHARE_FROM_PROGRAM /prefix/${CMAKE_INSTALL_BINDIR} /prefix/${CMAKE_INSTALL_DATADIR}/hep)
get_filename_component(share ${CMAKE_BINARY_DIR}/bin/${HEP_SHARE_FROM_PROGRAM} ABSOLUTE)
file(MAKE_DIRECTORY ${share})
file(CREATE_LINK ${CMAKE_SOURCE_DIR}/presets ${share}/presets SYMBOLIC)

add_compile_definitions(_GNU_SOURCE)
add_compile_options($<$<COMPILE_LANGUAGE:C>:-Wall> $<$<COMPILE_LANGUAGE:C>:-Wextra> $<$<COMPILE_LANGUAGE:C>:-Wshadow>
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>
  $<$<COMPILE_LANGUAGE:C>:-Wvla> $<$<COMPILE_LANGUAGE:C>:-Werror=switch> $<$<COMPILE_LANGUAGE:C>:-fno-strict-aliasing>)
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-fno-strict-aliasing>")
if(HEP_WERROR)
  add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Werror>" "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>")
endif()
if(HEP_SANITIZE) # device code has compute-sanitizer
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${HEP_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>")
  # What UndefinedBehaviorSanitizer says of null and of sizes of objects, AddressSanitizer says too. By gcc the former takes
  # an eighth of the time to compile; the fuzz build, by clang, has both.
  if("${HEP_SANITIZE}" MATCHES "address.*undefined" AND CMAKE_C_COMPILER_ID STREQUAL GNU)
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-fno-sanitize=null,object-size>")
  endif()
  add_link_options(-fsanitize=${HEP_SANITIZE})
  # The tests are many programs, each of which holds the whole library.
  include(CheckLinkerFlag)
  foreach(linker lld gold)
    check_linker_flag(C -fuse-ld=${linker} HEP_LINKS_BY_${linker})
    if(HEP_LINKS_BY_${linker})
      add_link_options(-fuse-ld=${linker})
      break()
    endif()
  endforeach()
  # A third of what tests take in such builds is programs that start and end: relocating what sanitizers know of every
  # place in the source, and searching the memory of their libraries for leaks.
  if("${HEP_SANITIZE}" MATCHES "address" AND CMAKE_C_COMPILER_ID STREQUAL GNU)
    include(CheckCSourceCompiles)
    set(static -no-pie -static-libasan -static-libubsan)
    set(CMAKE_REQUIRED_LINK_OPTIONS -fsanitize=${HEP_SANITIZE} ${static})
    check_c_source_compiles("int main(void) { return 0; }" HEP_LINKS_STATIC_SANITIZERS)
    unset(CMAKE_REQUIRED_LINK_OPTIONS)
    if(HEP_LINKS_STATIC_SANITIZERS)
      add_link_options("$<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:${static}>")
    endif()
  endif()
endif()
if(HEP_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# A module sees its own headers and, through target_link_libraries, those of the modules it may
# depend on, and no others: each module's headers are reached through a directory of links that
# holds that module alone. An include outside the allowed direction does not compile.
function(hep_view name out) # directories...
  set(view ${CMAKE_BINARY_DIR}/include/${name})
  file(REMOVE_RECURSE ${view}) # links of what it held before
  foreach(directory IN LISTS ARGN)
    get_filename_component(parent ${view}/${directory} DIRECTORY)
    file(MAKE_DIRECTORY ${parent})
    file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${directory} ${view}/${directory} SYMBOLIC)
  endforeach()
  set(${out} ${view} PARENT_SCOPE)
endfunction()

#
# IN_LIBRARY: libhep holds it, too. Nobody replaces its functions by others of the same name.
function(hep_module name)
  cmake_parse_arguments(arg "IN_LIBRARY" "" "DIRECTORIES;SOURCES;DEPENDS" ${ARGN})
  if(NOT arg_DIRECTORIES)
    set(arg_DIRECTORIES ${name})
  endif()
  hep_view(${name} view ${arg_DIRECTORIES})
  add_library(hep_${name} STATIC ${arg_SOURCES})
  target_include_directories(hep_${name} PUBLIC ${view})
  if(arg_IN_LIBRARY)
    set_target_properties(hep_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_compile_options(hep_${name} PRIVATE -fno-semantic-interposition)
  endif()
  foreach(dependency IN LISTS arg_DEPENDS)
    target_link_libraries(hep_${name} PUBLIC hep_${dependency})
  endforeach()
endfunction()

# What a program prints of its own tables, KIND=FILE, is made whenever it is linked: whichever targets are built, it can
# be installed.
function(hep_generate program)
  list(TRANSFORM ARGN REPLACE "=" "=${CMAKE_BINARY_DIR}/generated/")
  if(NOT CMAKE_CROSSCOMPILING)
    add_custom_command(TARGET ${program} POST_BUILD
      COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:${program}> "-DFILES=${ARGN}"
        -P ${CMAKE_SOURCE_DIR}/scripts/cmake/HepGenerate.cmake VERBATIM)
  endif()
endfunction()
