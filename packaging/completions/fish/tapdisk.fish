complete -c tapdisk -l engine -d 'how to do I/O: probe (the default: the first that works), io_uring, libaio or threads' -r -f -a "probe\t''
io_uring\t''
libaio\t''
threads\t''"
complete -c tapdisk -l no-jail -d 'keep all capabilities and system calls, for debuggers'
complete -c tapdisk -l retry-eio -d 'take EIO for something that may pass, also on files and devices'
complete -c tapdisk -s D -d 'stay in the foreground'
complete -c tapdisk -s h -d 'help'
