# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_vhd_util_global_optspecs
    string join \n
end

function __fish_vhd_util_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_vhd_util_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_vhd_util_using_subcommand
    set -l cmd (__fish_vhd_util_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "create" -d 'Make an image without a parent'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "snapshot" -d 'Make an image that continues another'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "query" -d 'Show what an image says of itself'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "read" -d 'Print what an image holds'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "set" -d 'Change a mark of an image in place'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "repair" -d 'Leave an image as its next reader expects it'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "resize" -d 'Make the disk of an image larger'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "revert" -d 'Undo a resize that was not done'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "fill" -d 'Give every block of an image its room'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "modify" -d 'Give an image another parent or another end, or take its data away'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "check" -d 'Say whether an image obeys the rules of its format'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "scan" -d 'Show many images, one line each'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "coalesce" -d 'Move what an image holds into its parent'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "key" -d 'Tell or set the hash of the key of an encrypted disk'
complete -c vhd-util -n "__fish_vhd_util_needs_command" -f -a "copy" -d 'Make a new image of what another has'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand create" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand create" -s s -d 'size in MiB' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand create" -s S -d 'size in MiB that the tables have room for' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand create" -s r -d 'fixed: all room at once'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand create" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand create" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -s p -d 'parent' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -s l -d 'longest chain' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -s S -d 'size in MiB that the tables have room for' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -s m -d 'the parent is raw'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -s e -d 'even if the parent is empty'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand snapshot" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s v -d 'virtual size in MiB'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s s -d 'physical size in bytes'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s p -d 'parent'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s f -d 'hidden'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s m -d 'marker'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s d -d 'depth of the chain'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s a -d 'allocated blocks'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s S -d 'largest size in MiB without moving data'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s u -d 'the parent as it is stored'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s b -d 'by the footer at the start'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -l json -d 'as JSON'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand query" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s t -d 'sector: where it is' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s b -d 'block: where it is' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s m -d 'block: its bitmap' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s i -d 'sector: is it there' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s e -d 'sector: runs that are there' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s j -d 'block: is it in the batmap' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s d -d 'block: its data' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s r -d 'sector: data of the disk' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s R -d 'byte: data of the disk' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s c -d 'how many' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s k -d 'file of the key' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s p -d 'headers'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s B -d 'which blocks there are'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s a -d 'batmap'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s x -d 'hexadecimal'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s C -d 'by the footer at the start'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -l json -d 'as JSON'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand read" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand set" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand set" -s f -d 'hidden | marker' -r -f -a "hidden\t''
marker\t''"
complete -c vhd-util -n "__fish_vhd_util_using_subcommand set" -s v -d '0..255' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand set" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand set" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand repair" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand repair" -s b -d 'the footer at the start counts'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand repair" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand repair" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand resize" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand resize" -s s -d 'size in MiB' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand resize" -s j -d 'journal' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand resize" -s f -d 'fast: within the tables that there are'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand resize" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand resize" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand revert" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand revert" -s j -d 'journal' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand revert" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand revert" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -s f -d 'first sector' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -s t -d 'last sector' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -s k -d 'file of the key' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -s b -d 'room only'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -s B -d 'of any size'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand fill" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand modify" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand modify" -s p -d 'another parent' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand modify" -s s -d 'physical size in bytes' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand modify" -s m -d 'that parent is raw'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand modify" -s z -d 'without its data'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand modify" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand modify" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s i -d 'a lost footer is fine'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s I -d 'whatever the parent is'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s t -d 'whatever the time is'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s p -d 'the parents too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s b -d 'what is not there is zero'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s B -d 'not the table'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s s -d 'how much is written'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s R -l repair-plan -d 'what repair would do'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -l json -d 'as JSON'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand check" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s m -d 'glob' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s l -d 'volume group' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s f -d 'what the start of an image says will do'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s c -d 'go on after an error'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s p -d 'as a tree'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s a -d 'parents that are named, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s v -d 'whole paths'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s M -d 'markers and key hashes'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -l json -d 'as JSON'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand scan" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand coalesce" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand coalesce" -s s -d 'new blocks of the parent are not zeroed'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand coalesce" -s p -d 'how far it is'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand coalesce" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand coalesce" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s k -d 'file of the key' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s H -d 'hash' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s N -d 'nonce' -r -f
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s C -d 'the hash of a key'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s s -d 'set it'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s c -d 'check it'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s p -d 'print it'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand key" -s h -d 'help'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand copy" -s n -d 'name' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand copy" -s N -d 'name of the copy' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand copy" -s k -d 'file of the key' -r -F
complete -c vhd-util -n "__fish_vhd_util_using_subcommand copy" -s E -d 'the key is on stdin'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand copy" -l debug -d 'failures go to the host\'s log, too'
complete -c vhd-util -n "__fish_vhd_util_using_subcommand copy" -s h -d 'help'
