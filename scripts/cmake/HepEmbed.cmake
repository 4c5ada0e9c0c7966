# Writes text files into one C file as zero-terminated arrays:
#   cmake -DOUT=assets.c "-DFILES=a/report.css;a/report.js" -P HepEmbed.cmake
# A file named report.css becomes `const char report_css[]`.
set(code "// Made from the files named below; see scripts/cmake/HepEmbed.cmake.\n#include \"backends/html_parts.h\"\n")
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME)
  string(MAKE_C_IDENTIFIER ${name} symbol)
  file(READ ${file} bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "((0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,))" "\\1\n" bytes "${bytes}")
  string(APPEND code "\nconst char ${symbol}[] = { // ${name}\n${bytes}0};\n")
endforeach()
file(WRITE ${OUT} "${code}")
