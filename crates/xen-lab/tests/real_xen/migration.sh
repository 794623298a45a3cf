# A guest moves to the same host while it writes and checks what it wrote.
started() {
    lab-guest start -k pvh -m 192 -l 'tsc_mode="native"' -t 400 -d "$(disk vhd xvda rw /images/a.vhd)" \
        /images/work xvda --depth 16 >/dev/null && busy /images/a.vhd
}
ring() { grep -n "ring $1-51712 $2" /out/messages | head -n 1; }
# No request of the source was taken once the target was served: the tapdisk of both tells so in its log, line by line.
in_order() { # SOURCE TARGET
    grep -E "ring ($1|$2)-51712" /out/messages
    rest=$(ring "$1" '\(is settled\|is held\|takes no more requests\)')
    connected=$(ring "$2" connected)
    [ -n "$rest" ] && [ "${rest%%:*}" -lt "${connected%%:*}" ] || { echo "the source was not at rest when the target came"; return 1; }
    [ -z "$(ring "$1" 'goes on')" ] || { echo 'the source was served again'; return 1; }
}
# Moves it; its work goes on there, in this order.
moves() {
    source=$(xl domid guest)
    # With no command to reach the other host, what is named as a host is the command.
    timeout -k 1 400 xl migrate -s '' guest 'xl migrate-receive' || { echo "xl migrate: $?"; return 1; }
    target=$(xl domid guest)
    echo "$target" >/run/lab-guest/guest/domain
    # From the last answer to the source to the first request of the target, which the same clock has seen.
    for look in $(seq 240); do
        stats /images/a.vhd >/out/migration.json
        blackout=$(figure blackout_us </out/migration.json)
        [ -z "$blackout" ] || break
        sleep 0.25
    done
    echo "blackout: $blackout us"
    [ "${blackout:-0}" -gt 0 ] && in_order "$source" "$target"
}
gives_up() { failed "$name" "$1"; xl destroy guest; }
ends() { tell lab-stop 1 && lab-guest wait -t 400 && clean "$1"; }

name=live_migration
started && lab-trace start && moves && lab-trace stop /out/migration.trace && ends $name && ok $name || gives_up $?

name=restored_and_migrated
comes_back() {
    xl save guest /images/saved && xl restore -e /images/saved && rm /images/saved &&
        xl domid guest >/run/lab-guest/guest/domain && busy /images/a.vhd
}
started && comes_back && moves && ends $name && ok $name || gives_up $?
