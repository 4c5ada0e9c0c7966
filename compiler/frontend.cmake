# From text to checked spec.
set(HEP_FRONTEND_SOURCES check.c check_domain.c check_keys.c evaluate.c read.c reference.c spec.c)
