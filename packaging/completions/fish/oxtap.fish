# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_oxtap_global_optspecs
    string join \n h/help V/version
end

function __fish_oxtap_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_oxtap_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_oxtap_using_subcommand
    set -l cmd (__fish_oxtap_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c oxtap -n "__fish_oxtap_needs_command" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_needs_command" -s V -l version -d 'Print version'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "serve" -d 'Serve an image over NBD until Ctrl-C'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "ls" -d 'Show every disk of this host, and which devices of guests have it'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "top" -d 'Watch the disks of this host at work'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "stats" -d 'Show everything that is counted of a disk: requests, latencies, errors, queues'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "limit" -d 'Show or change how much a disk may do'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "budget" -d 'Make a disk share the budget of a td-rated'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "pause" -d 'Drain a disk, flush and close its images; its requests are held until `resume`'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "resume" -d 'Let a disk that was paused or quiesced go on'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "quiesce" -d 'Drain a disk, flush, and let others write to its images; its requests are held until `resume`'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "release" -d 'Let go of all devices of a guest, and of the locks of their images: another host may then write to them'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "resize" -d 'Give a disk the size that its image has by now, or make both larger'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "close" -d 'Drain a disk, flush and close its images for good; its clients are cut off'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "jobs" -d 'Show the jobs of all tapdisks: what runs, what waits, what has ended lately'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "watch" -d 'Follow a job to its end'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "cancel" -d 'Turn a job back: the disk is then as before'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "metrics" -d 'Print the numbers of all disks in the OpenMetrics format, or serve them to a scraper'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "dump" -d 'Show what the event loops of a disk have done last, and what they wait for'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "faults" -d 'Make storage fail by rules, to test what is above it'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "lease" -d 'Show who holds the lease of an image, or break it. Leases are for storage without locks'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "doctor" -d 'Show everything of disks that there is on this host, and clear away what was left behind'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "demo" -d 'Put the whole system to work on a VHD chain with an ext4 file system, and have others\' tools check it'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "hosted" -d 'Be a host without Xen, for tests and development, and give its domains disks'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "guest" -d 'Be a guest of such a host: use a disk, check every byte, leave it to the next kernel'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "bench" -d 'Measure this machine: oxtap beside qemu-nbd, nbdkit and fio, as far as they are installed'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c oxtap -n "__fish_oxtap_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -l create -d 'Make the image first, with a disk of this size (10G, 512M, ...); it must not exist yet' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -l format -d 'The format of the image; needed unless its name ends in .vhd, .raw or .img. It is never guessed from content' -r -f -a "vhd\t'Virtual Hard Disk: dynamic and differencing images that grow, and fixed ones'
raw\t'The bytes of the disk, and nothing else'"
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -l parent -d 'Make the image as a snapshot of this one; its size is the parent\'s unless --create says more' -r -F
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -l parent-format -d 'The format of the parent, if its name does not tell' -r -f -a "vhd\t'Virtual Hard Disk: dynamic and differencing images that grow, and fixed ones'
raw\t'The bytes of the disk, and nothing else'"
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -l socket -d 'Listen on this Unix socket' -r -F
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -l listen -d 'Listen on this TCP address. There is no encryption and no password: keep it to networks that you trust' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -l read-only -d 'Refuse writes'
complete -c oxtap -n "__fish_oxtap_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c oxtap -n "__fish_oxtap_using_subcommand ls" -l kind -d 'The kinds of backends whose devices are shown; more than one with commas between' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand ls" -l json -d 'Print JSON: a list of objects'
complete -c oxtap -n "__fish_oxtap_using_subcommand ls" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand top" -s i -l interval -d 'Time between two looks' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand top" -s s -l sort -d 'What the busiest disks are busiest with' -r -f -a "load\t'Requests in the disk, on average'
iops\t'Requests for each second'
bandwidth\t'Bytes for each second'
latency\t'The time in which 99 of 100 requests are served'
errors\t'Failed requests'
image\t'The name of the image, from A to Z'"
complete -c oxtap -n "__fish_oxtap_using_subcommand top" -s f -l filter -d 'Show only disks with this in image, state or number, or a guest\'s (domain-device)' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand top" -s g -l guests -d 'Show the guests of each disk below it'
complete -c oxtap -n "__fish_oxtap_using_subcommand top" -l once -d 'Print one table and end, as without a terminal'
complete -c oxtap -n "__fish_oxtap_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c oxtap -n "__fish_oxtap_using_subcommand stats" -l json -d 'Print JSON, as the tapdisk gives it'
complete -c oxtap -n "__fish_oxtap_using_subcommand stats" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l iops -d 'Requests, reads and writes together' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l bandwidth -d 'Bytes, reads and writes together (50M, 1G, ...)' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l read-iops -d 'Reads' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l read-bandwidth -d 'Bytes that are read' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l write-iops -d 'Writes' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l write-bandwidth -d 'Bytes that are written' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l burst -d 'How many seconds\' worth may be saved up: of the limits named here, or of all if none is' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l none -d 'Lift all limits that are not named here'
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -l json -d 'Print the limits as JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand limit" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand budget" -l none -d 'Share no budget any more'
complete -c oxtap -n "__fish_oxtap_using_subcommand budget" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand pause" -l deadline -d 'Give up after so long, if requests do not end; the disk then goes on' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand pause" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand pause" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand resume" -l domain -d 'All disks that this guest has connected, each on its own; fails if one of them fails' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand resume" -l image -d 'Go on with another image, of the same disk: vhd:/images/new-leaf.vhd' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand resume" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand resume" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand quiesce" -l domain -d 'All disks that this guest has connected, each on its own; fails if one of them fails' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand quiesce" -l deadline -d 'Give up after so long, if requests do not end; the disk then goes on' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand quiesce" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand quiesce" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand release" -l domain -d 'The guest' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand release" -l deadline -d 'How long its requests, and then making them durable, may take' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand release" -l force -d 'At the deadline, let go of the guest\'s pages whatever storage still holds'
complete -c oxtap -n "__fish_oxtap_using_subcommand release" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand release" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand resize" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand resize" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand close" -l deadline -d 'Close by force after so long' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand close" -l force -d 'Wait for no request and no storage: what has not ended is answered no more'
complete -c oxtap -n "__fish_oxtap_using_subcommand close" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand jobs" -l json -d 'Print JSON: a list of objects'
complete -c oxtap -n "__fish_oxtap_using_subcommand jobs" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand watch" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand cancel" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand metrics" -l listen -d 'Answer HTTP requests for /metrics here, until Ctrl-C' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand metrics" -l patience -d 'How long to wait for a tapdisk that does not answer' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand metrics" -l allow-remote -d 'Listen also where other hosts can connect. There is no encryption and no password'
complete -c oxtap -n "__fish_oxtap_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand dump" -l turns -d 'Show so many turns of each event loop' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand dump" -l json -d 'Print JSON, as the tapdisk gives it'
complete -c oxtap -n "__fish_oxtap_using_subcommand dump" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand faults" -l none -d 'Let nothing fail any more; what hangs goes on'
complete -c oxtap -n "__fish_oxtap_using_subcommand faults" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand lease" -l force -d 'Break it, whoever holds it'
complete -c oxtap -n "__fish_oxtap_using_subcommand lease" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand lease" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand doctor" -l kind -d 'The kinds of backends to look at; more than one with commas between' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand doctor" -l patience -d 'How long XenStore may take to be looked through, and for each repair' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand doctor" -l repair -d 'Remove what was found'
complete -c oxtap -n "__fish_oxtap_using_subcommand doctor" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand demo" -l keep -d 'Leave the images in their directory and say where it is'
complete -c oxtap -n "__fish_oxtap_using_subcommand demo" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and not __fish_seen_subcommand_from run backend add-disk remove-disk remove-domain help" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and not __fish_seen_subcommand_from run backend add-disk remove-disk remove-domain help" -f -a "run" -d 'Be the host until Ctrl-C: memory and events that domains share, XenStore, and a backend for their disks'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and not __fish_seen_subcommand_from run backend add-disk remove-disk remove-domain help" -f -a "backend" -d 'Serve the disks of a host that runs without a backend. It may end and start at any time: guests go on'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and not __fish_seen_subcommand_from run backend add-disk remove-disk remove-domain help" -f -a "add-disk" -d 'Give a domain a disk: nodes as libxl writes them, and a tapdisk as its script starts it'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and not __fish_seen_subcommand_from run backend add-disk remove-disk remove-domain help" -f -a "remove-disk" -d 'Take a disk away, and end its tapdisk'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and not __fish_seen_subcommand_from run backend add-disk remove-disk remove-domain help" -f -a "remove-domain" -d 'End a domain; its disks are taken away by force'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and not __fish_seen_subcommand_from run backend add-disk remove-disk remove-domain help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from run" -l kinds -d 'The kinds of backends that are served; more than one with commas between' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from run" -l polling -d 'Look at rings for so many microseconds after the last request, instead of waiting to be told: 0 to 100000' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from run" -l grace -d 'How long a guest is served after XenStore has lost its device together with the connection' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from run" -l persistent -d 'Offer guests to keep their pages mapped between requests'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from run" -l no-backend -d 'Serve no disks: another program does that, such as `oxtap hosted backend`'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from run" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from backend" -l kinds -d 'The kinds of backends that are served; more than one with commas between' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from backend" -l polling -d 'Look at rings for so many microseconds after the last request, instead of waiting to be told: 0 to 100000' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from backend" -l grace -d 'How long a guest is served after XenStore has lost its device together with the connection' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from backend" -l persistent -d 'Offer guests to keep their pages mapped between requests'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from backend" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from add-disk" -l polling -d 'Look at its rings for so many microseconds after the last request: 0 to 100000, whatever the host does for others' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from add-disk" -l memory -d 'The memory of a new domain' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from add-disk" -l read-only -d 'Refuse writes'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from add-disk" -l persistent -d 'Offer the guest to keep its pages mapped between requests, whatever the host does for others'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from add-disk" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from add-disk" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from remove-disk" -l patience -d 'How long guest and backend may take' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from remove-disk" -l force -d 'Do not ask the guest'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from remove-disk" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from remove-domain" -l patience -d 'How long the backend may take for each disk' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from remove-domain" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from help" -f -a "run" -d 'Be the host until Ctrl-C: memory and events that domains share, XenStore, and a backend for their disks'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from help" -f -a "backend" -d 'Serve the disks of a host that runs without a backend. It may end and start at any time: guests go on'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from help" -f -a "add-disk" -d 'Give a domain a disk: nodes as libxl writes them, and a tapdisk as its script starts it'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from help" -f -a "remove-disk" -d 'Take a disk away, and end its tapdisk'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from help" -f -a "remove-domain" -d 'End a domain; its disks are taken away by force'
complete -c oxtap -n "__fish_oxtap_using_subcommand hosted; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l cycles -d 'Kernels that have the disk, one after the other' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l handover -d 'How each kernel leaves the disk to the next' -r -f -a "shutdown\t'It shuts the disk down while requests run, as kexec does: 4, 5, 6, 1'
crash\t'It is gone from one moment to the next; the node says 4'
mixed\t'Now this, now that'"
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l requests -d 'Requests of each kernel' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l depth -d 'Requests that run at a time' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l blocks -d 'Blocks of 4 KiB in one request, at most' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l queues -d 'Rings, each with its event channel; fewer if the backend offers less' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l ring-order -d 'Each ring has two to the power of so many pages; fewer if the backend offers less' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l abi -d 'How requests are laid out in the ring' -r -f -a "x86_64-abi\t''
x86_32-abi\t''
arm-abi\t''"
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l patience -d 'How long the backend may take for each step' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l seed -d 'What random choices begin with, and stamps bear' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l hostile -d 'Mean harm, in this way; --requests says how often' -r -f -a "random-slots\t''
flipping-memory\t''
overrun\t''
take-back\t''
ring-as-data\t''
duplicate-ids\t''
segment-counts\t''
sector-abuse\t''
indirect-pages\t''
revoked-grants\t''
foreign-grants\t''
kick-storm\t''
page-order-31\t''
long-values\t''
nonsense-nodes\t''
state-storm\t''
node-storm\t''"
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l read-only -d 'Write nothing; check what an earlier run with the same seed has written'
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l persistent -d 'Keep data pages granted between requests; the backend makes use of that if the host was told so'
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l jump -d 'Say that the disk is connected as soon as there is a ring, as mini-os does: 1, 4 instead of 1, 3, 4'
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -l json -d 'Print JSON'
complete -c oxtap -n "__fish_oxtap_using_subcommand guest" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c oxtap -n "__fish_oxtap_using_subcommand bench" -l rounds -d 'How often each variant is measured, in turns' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand bench" -l seconds -d 'How long each variant is measured in each round' -r
complete -c oxtap -n "__fish_oxtap_using_subcommand bench" -l plots -d 'Draw what was measured, as SVG files in this directory' -r -F
complete -c oxtap -n "__fish_oxtap_using_subcommand bench" -l directory -d 'Where files are made; on the storage that is to be measured' -r -F
complete -c oxtap -n "__fish_oxtap_using_subcommand bench" -l quick -d 'Three rounds of a third of a second each'
complete -c oxtap -n "__fish_oxtap_using_subcommand bench" -l json -d 'Machine-readable figures, one object'
complete -c oxtap -n "__fish_oxtap_using_subcommand bench" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand completions" -s h -l help -d 'Print help'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "serve" -d 'Serve an image over NBD until Ctrl-C'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "ls" -d 'Show every disk of this host, and which devices of guests have it'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "top" -d 'Watch the disks of this host at work'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "stats" -d 'Show everything that is counted of a disk: requests, latencies, errors, queues'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "limit" -d 'Show or change how much a disk may do'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "budget" -d 'Make a disk share the budget of a td-rated'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "pause" -d 'Drain a disk, flush and close its images; its requests are held until `resume`'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "resume" -d 'Let a disk that was paused or quiesced go on'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "quiesce" -d 'Drain a disk, flush, and let others write to its images; its requests are held until `resume`'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "release" -d 'Let go of all devices of a guest, and of the locks of their images: another host may then write to them'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "resize" -d 'Give a disk the size that its image has by now, or make both larger'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "close" -d 'Drain a disk, flush and close its images for good; its clients are cut off'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "jobs" -d 'Show the jobs of all tapdisks: what runs, what waits, what has ended lately'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "watch" -d 'Follow a job to its end'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "cancel" -d 'Turn a job back: the disk is then as before'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "metrics" -d 'Print the numbers of all disks in the OpenMetrics format, or serve them to a scraper'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "dump" -d 'Show what the event loops of a disk have done last, and what they wait for'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "faults" -d 'Make storage fail by rules, to test what is above it'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "lease" -d 'Show who holds the lease of an image, or break it. Leases are for storage without locks'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "doctor" -d 'Show everything of disks that there is on this host, and clear away what was left behind'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "demo" -d 'Put the whole system to work on a VHD chain with an ext4 file system, and have others\' tools check it'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "hosted" -d 'Be a host without Xen, for tests and development, and give its domains disks'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "guest" -d 'Be a guest of such a host: use a disk, check every byte, leave it to the next kernel'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "bench" -d 'Measure this machine: oxtap beside qemu-nbd, nbdkit and fio, as far as they are installed'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "completions" -d 'Print completions for a shell'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and not __fish_seen_subcommand_from serve ls top stats limit budget pause resume quiesce release resize close jobs watch cancel metrics dump faults lease doctor demo hosted guest bench completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and __fish_seen_subcommand_from hosted" -f -a "run" -d 'Be the host until Ctrl-C: memory and events that domains share, XenStore, and a backend for their disks'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and __fish_seen_subcommand_from hosted" -f -a "backend" -d 'Serve the disks of a host that runs without a backend. It may end and start at any time: guests go on'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and __fish_seen_subcommand_from hosted" -f -a "add-disk" -d 'Give a domain a disk: nodes as libxl writes them, and a tapdisk as its script starts it'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and __fish_seen_subcommand_from hosted" -f -a "remove-disk" -d 'Take a disk away, and end its tapdisk'
complete -c oxtap -n "__fish_oxtap_using_subcommand help; and __fish_seen_subcommand_from hosted" -f -a "remove-domain" -d 'End a domain; its disks are taken away by force'
