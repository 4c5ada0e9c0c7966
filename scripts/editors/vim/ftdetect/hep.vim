autocmd BufRead,BufNewFile *.hep setfiletype hep
