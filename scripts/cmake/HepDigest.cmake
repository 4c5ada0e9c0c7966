# Writes a digest of headers, as a header:  cmake -DOUT=digest.h "-DHEADERS=a.h;b.h" -P HepDigest.cmake
set(all "")
foreach(header IN LISTS HEADERS)
  file(SHA256 ${header} digest)
  string(APPEND all ${digest})
endforeach()
string(SHA256 digest "${all}")
string(SUBSTRING ${digest} 0 16 digest)
file(WRITE ${OUT} "// Of the headers that program and plug-in include; see scripts/cmake/HepDigest.cmake.
#define HEP_PLUGIN_DIGEST \"${digest}\"\n")
