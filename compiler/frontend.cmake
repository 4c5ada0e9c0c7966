# From text to checked spec.
set(HEP_FRONTEND_SOURCES check.c check_domain.c check_keys.c check_links.c check_routing.c evaluate.c import.c link_matrix.c
  read.c reference.c spec.c)
