complete -c td-rated -s D -l debug -d 'level' -r -f
complete -c td-rated -s H -l high -d 'congested from this on' -r -f
complete -c td-rated -s L -l low -d 'congested until this' -r -f
complete -c td-rated -s c -l cap -d 'what is saved up at most' -r -f
complete -c td-rated -s p -l period -d 'how often to look' -r -f
complete -c td-rated -s r -l rate -d 'bytes in a second' -r -f
complete -c td-rated -s t -l type -d 'type' -r -f -a "token\t''
meminfo\t''"
complete -c td-rated -s h -l help -d 'help'
