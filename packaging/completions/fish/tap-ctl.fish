# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_tap_ctl_global_optspecs
    string join \n
end

function __fish_tap_ctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_tap_ctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_tap_ctl_using_subcommand
    set -l cmd (__fish_tap_ctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "list" -d 'Show disks, processes and minors'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "allocate" -d 'Reserve a minor'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "free" -d 'Give a minor back'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "create" -d 'Serve an image with a tapdisk of its own'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "destroy" -d 'Close a disk and give its minor back'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "spawn" -d 'Start a tapdisk'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "attach" -d 'Make a minor known to a tapdisk'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "detach" -d 'Take a minor away from a tapdisk'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "open" -d 'Open an image and serve it'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "close" -d 'Flush a disk and close its images'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "pause" -d 'Flush a disk and close its images until it is resumed'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "unpause" -d 'Open the images of a disk again'
complete -c tap-ctl -n "__fish_tap_ctl_needs_command" -f -a "stats" -d 'Show the counters of a disk'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand list" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand list" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand list" -s t -d 'type' -r -f -a "vhd\t''
aio\t''"
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand list" -s f -d 'file' -r -F
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand list" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand list" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand allocate" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand allocate" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand free" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand free" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand free" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s a -d 'type:path' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s d -d 'name' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s e -d 'parent minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s 2 -d 'secondary' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s t -d 'request timeout' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s C -d 'change log' -r -F
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s R -d 'readonly'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s D -d 'no O_DIRECT'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s r -d 'local read cache'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s s -d 'standby'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand create" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand destroy" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand destroy" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand destroy" -s t -d 'seconds' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand destroy" -s f -d 'force'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand destroy" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand destroy" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand spawn" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand spawn" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand attach" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand attach" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand attach" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand attach" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand detach" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand detach" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand detach" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand detach" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s a -d 'type:path' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s e -d 'parent minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s 2 -d 'secondary' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s t -d 'request timeout' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s C -d 'change log' -r -F
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s R -d 'readonly'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s D -d 'no O_DIRECT'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s r -d 'local read cache'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s s -d 'standby'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s E -d 'key on stdin'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand open" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand close" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand close" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand close" -s t -d 'seconds' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand close" -s f -d 'force'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand close" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand close" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand pause" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand pause" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand pause" -s t -d 'seconds' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand pause" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand pause" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand unpause" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand unpause" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand unpause" -s a -d 'type:path' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand unpause" -s 2 -d 'secondary' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand unpause" -s c -d 'change log' -r -F
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand unpause" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand unpause" -s h -d 'help'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand stats" -s p -d 'pid' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand stats" -s m -d 'minor' -r -f
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand stats" -l debug -d 'the messages that are exchanged are shown'
complete -c tap-ctl -n "__fish_tap_ctl_using_subcommand stats" -s h -d 'help'
