# A guest moves to the same host while it writes and checks what it wrote.
name=live_migration
lab-guest start -k pvh -m 192 -l 'tsc_mode="native"' -t 400 -d "$(disk vhd xvda rw /images/a.vhd)" \
    /images/work xvda --depth 16 >/dev/null && busy /images/a.vhd
lab-trace start
# With no command to reach the other host, what is named as a host is the command.
xl migrate -s '' guest 'xl migrate-receive' || failed $name "migrate $?"
lab-trace stop /out/migration.trace
xl domid guest >/run/lab-guest/guest/domain
tell lab-stop 1 && lab-guest wait -t 400 && clean $name && ok $name || failed $name $?
