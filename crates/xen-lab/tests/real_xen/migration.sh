# A guest moves to the same host while it writes and checks.
cat >/images/verify <<'X'
#!/bin/sh
for round in $(seq "$1"); do
    dd if=/dev/urandom of=/tmp/x bs=1M count=2 2>/dev/null
    dd if=/tmp/x of=/dev/xvda bs=64k oflag=direct 2>/dev/null || exit 3
    dd if=/dev/xvda of=/tmp/y bs=64k count=32 iflag=direct 2>/dev/null || exit 4
    cmp /tmp/x /tmp/y || exit 5
done
X
vhd-util create -n /images/a.vhd -s 64 || exit 1
name=live_migration
lab-guest start -k pvh -m 192 -l 'tsc_mode="native"' -t 400 -d "$(disk vhd xvda rw /images/a.vhd)" /images/verify 60 >/dev/null
lab-trace start
# With no command to reach the other host, what is named as a host is the command.
xl migrate -s '' guest 'xl migrate-receive' || failed $name "migrate $?"
lab-trace stop /out/migration.trace
xl domid guest >/run/lab-guest/guest/domain
lab-guest wait -t 400 && clean $name && ok $name || failed $name $?
over
