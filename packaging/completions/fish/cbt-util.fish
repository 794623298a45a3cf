# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_cbt_util_global_optspecs
    string join \n
end

function __fish_cbt_util_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_cbt_util_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_cbt_util_using_subcommand
    set -l cmd (__fish_cbt_util_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c cbt-util -n "__fish_cbt_util_needs_command" -f -a "create" -d 'Make a log'
complete -c cbt-util -n "__fish_cbt_util_needs_command" -f -a "set" -d 'Change what the header of a log says'
complete -c cbt-util -n "__fish_cbt_util_needs_command" -f -a "get" -d 'Show what a log says'
complete -c cbt-util -n "__fish_cbt_util_needs_command" -f -a "coalesce" -d 'Mark in one log what is marked in another'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand create" -s n -d 'name' -r -F
complete -c cbt-util -n "__fish_cbt_util_using_subcommand create" -s s -d 'size of the disk in bytes' -r -f
complete -c cbt-util -n "__fish_cbt_util_using_subcommand create" -s h -d 'help'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand set" -s n -d 'name' -r -F
complete -c cbt-util -n "__fish_cbt_util_using_subcommand set" -s p -d 'parent\'s UUID' -r -f
complete -c cbt-util -n "__fish_cbt_util_using_subcommand set" -s c -d 'child\'s UUID' -r -f
complete -c cbt-util -n "__fish_cbt_util_using_subcommand set" -s f -d 'consistent: 0 | 1' -r -f -a "0\t''
1\t''"
complete -c cbt-util -n "__fish_cbt_util_using_subcommand set" -s s -d 'size of the disk in bytes' -r -f
complete -c cbt-util -n "__fish_cbt_util_using_subcommand set" -s h -d 'help'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand get" -s n -d 'name' -r -F
complete -c cbt-util -n "__fish_cbt_util_using_subcommand get" -s p -d 'parent\'s UUID'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand get" -s c -d 'child\'s UUID'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand get" -s f -d 'consistent'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand get" -s s -d 'size of the disk in bytes'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand get" -s b -d 'bitmap'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand get" -s h -d 'help'
complete -c cbt-util -n "__fish_cbt_util_using_subcommand coalesce" -s p -d 'parent log' -r -F
complete -c cbt-util -n "__fish_cbt_util_using_subcommand coalesce" -s c -d 'child log' -r -F
complete -c cbt-util -n "__fish_cbt_util_using_subcommand coalesce" -s h -d 'help'
