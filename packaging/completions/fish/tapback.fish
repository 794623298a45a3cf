complete -c tapback -s n -l kind -l name -d 'Kind of devices to serve, as in backend/KIND of XenStore; may be given several times' -r
complete -c tapback -s p -l pidfile -d 'Write the process\'s number to this file once it serves' -r -F
complete -c tapback -s x -l domain -d 'Serve this guest only, and end when it has no devices any more' -r
complete -c tapback -l queues -d 'Offer so many rings for a device at most' -r
complete -c tapback -l on-death -d 'When the tapdisk of a device has gone: fail (the guest is told), restart (another tapdisk gets the same image), or run:COMMAND (the guest waits if it ends with 0)' -r
complete -c tapback -l script-time -d 'How long the script of a device that has gone may take to end its disk; then it is ended here' -r
complete -c tapback -l log-file -d 'Write lines to this file, too; SIGHUP opens it anew' -r -F
complete -c tapback -l completions -d 'Print completions for this shell, and end' -r -f -a "bash\t''
elvish\t''
fish\t''
powershell\t''
zsh\t''"
complete -c tapback -s d -l debug -d 'Stay in the foreground, and speak to stderr'
complete -c tapback -s v -l verbose -d 'Say more: which disk was found for a device'
complete -c tapback -s b -l nobarrier -d 'Offer no barriers; guests flush instead'
complete -c tapback -l auto -d 'Start tapdisks for devices whose script is block-oxtap, and end them when no device needs them'
complete -c tapback -l persistent -d 'Offer that pages may stay mapped between requests'
complete -c tapback -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tapback -s V -l version -d 'Print version'
