# Disks come and go while their guest runs; guests begin anew and end, all of it under load.
cat >/images/come-and-go <<'GUEST'
#!/bin/sh
# Works on a disk whenever there is one; what fails is its going.
while :; do
    until [ -e /dev/xvdb ]; do sleep 0.1; done
    lab-load /dev/xvdb --depth 16 --to-failure
    sleep 0.1
done
GUEST

# The toolstack keeps a directory for the devices of a guest once it has had one.
name=attach_and_detach_under_load
given=$(disk vhd xvdb rw /images/a.vhd)
lab-guest start /images/come-and-go >/dev/null && xl block-attach guest "$given" && xl block-detach guest xvdb
sleep 1
remember /tmp/traces.guest
well=yes
for how in '' --force '' --force; do
    xl block-attach guest "$given" && busy /images/a.vhd && xl block-detach $how guest xvdb &&
        clean "$name" /tmp/traces.guest || well=no
done
xl destroy guest
clean $name && [ $well = yes ] && ok $name || failed $name $well

name=reboot_and_shutdown_under_load
lab-guest start -w -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda --depth 16 >/dev/null && busy /images/a.vhd
first=$(xl domid guest)
xl reboot guest
for look in $(seq 240); do
    second=$(xl domid guest 2>/dev/null)
    [ "${second:-$first}" = "$first" ] || break
    sleep 0.25
done
told lab-works && busy /images/a.vhd && ! xenstore-exists "/local/domain/0/backend/vbd3/$first" &&
    [ "$(tap-ctl list | wc -l)" = 1 ] && timeout 120 xl shutdown -w guest && clean $name && ok $name || failed $name "$first $second"
