# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_td_util_global_optspecs
    string join \n
end

function __fish_td_util_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_td_util_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_td_util_using_subcommand
    set -l cmd (__fish_td_util_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c td-util -n "__fish_td_util_needs_command" -f -a "create" -d 'Make an image'
complete -c td-util -n "__fish_td_util_needs_command" -f -a "snapshot" -d 'Make an image that continues another'
complete -c td-util -n "__fish_td_util_needs_command" -f -a "query" -d 'Show what an image says of itself'
complete -c td-util -n "__fish_td_util_needs_command" -f -a "set" -d 'Hide an image, or show it again'
complete -c td-util -n "__fish_td_util_using_subcommand create" -s r -d 'all room at once'
complete -c td-util -n "__fish_td_util_using_subcommand create" -s h -d 'help'
complete -c td-util -n "__fish_td_util_using_subcommand snapshot" -s l -d 'longest chain' -r -f
complete -c td-util -n "__fish_td_util_using_subcommand snapshot" -s m -d 'the parent is raw'
complete -c td-util -n "__fish_td_util_using_subcommand snapshot" -s h -d 'help'
complete -c td-util -n "__fish_td_util_using_subcommand query" -s v -d 'size in MiB'
complete -c td-util -n "__fish_td_util_using_subcommand query" -s p -d 'parent'
complete -c td-util -n "__fish_td_util_using_subcommand query" -s f -d 'hidden'
complete -c td-util -n "__fish_td_util_using_subcommand query" -s d -d 'depth of the chain'
complete -c td-util -n "__fish_td_util_using_subcommand query" -s b -d 'by the footer at the start'
complete -c td-util -n "__fish_td_util_using_subcommand query" -s h -d 'help'
complete -c td-util -n "__fish_td_util_using_subcommand set" -s h -d 'help'
