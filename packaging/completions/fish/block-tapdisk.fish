complete -c block-tapdisk -s h -l help -d 'Print help (see more with \'--help\')'
complete -c block-tapdisk -s V -l version -d 'Print version'
