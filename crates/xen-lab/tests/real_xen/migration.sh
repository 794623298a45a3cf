# A guest moves to the same host while it writes and checks what it wrote.
name=live_migration
lab-guest start -k pvh -m 192 -l 'tsc_mode="native"' -t 400 -d "$(disk vhd xvda rw /images/a.vhd)" \
    /images/work xvda --depth 16 >/dev/null && busy /images/a.vhd
source=$(xl domid guest)
lab-trace start
# With no command to reach the other host, what is named as a host is the command.
xl migrate -s '' guest 'xl migrate-receive' || failed $name "migrate $?"
lab-trace stop /out/migration.trace
target=$(xl domid guest)
echo "$target" >/run/lab-guest/guest/domain
# From the last answer to the source to the first request of the target, which the same clock has seen.
for look in $(seq 240); do
    stats /images/a.vhd >/out/migration.json
    blackout=$(figure blackout_us </out/migration.json)
    [ -z "$blackout" ] || break
    sleep 0.25
done

# No request of the source was taken once the target was served: the tapdisk of both tells so in its log, line by line.
ring() { grep -n "ring $1-51712 $2" /out/messages | head -n 1; }
in_order() {
    grep "ring [0-9]*-51712" /out/messages
    rest=$(ring "$source" '\(is settled\|is held\|takes no more requests\)')
    connected=$(ring "$target" connected)
    [ -n "$rest" ] && [ "${rest%%:*}" -lt "${connected%%:*}" ] || { echo "the source was not at rest when the target came"; return 1; }
    [ -z "$(ring "$source" 'goes on')" ] || { echo 'the source was served again'; return 1; }
    echo "blackout: $blackout us"
    [ "${blackout:-0}" -gt 0 ]
}
tell lab-stop 1 && lab-guest wait -t 400 && in_order && clean $name && ok $name || failed $name $?
