# `cpack` in a build folder makes a Debian package, which depends on the packages of the libraries that it is linked
# with.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME hep)
set(CPACK_PACKAGE_VENDOR "the hep project")
set(CPACK_PACKAGE_CONTACT "the hep project <hep@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION "hepc compiles a model and a cluster into a communication plan, with its time, traffic
 and memory predicted; hep-run executes plans, measures them and checks them against a dense reference.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "openmpi-bin | mpich")
find_program(DPKG_SHLIBDEPS dpkg-shlibdeps)
if(DPKG_SHLIBDEPS)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
endif()
include(CPack)
