# Our backend beside that of the kernel, on the same image, in the same guest, in turns; with the loop device that the kernel's
# needs for a file, and on a block device, for which it needs none.
modprobe xen-blkback
modprobe brd rd_nr=1 rd_size=65536
# The kernel's own takes every vbd from now on.
kill $backend
while [ -d /proc/$backend ]; do sleep 0.1; done
tapback --kind vbd3 --debug >>/out/tapback.log 2>&1 &
backend=$!
disown
sleep 1
remember
truncate -s 64M /images/figures.img
cat >/images/measure <<'X'
#!/bin/sh
# measure ROUNDS MEBIBYTES
rounds=$1 mebibytes=$2
hundredths() { cut -d' ' -f1 /proc/uptime | tr -d .; }
# DISK read|write BYTES DEPTH: as many programs as the depth says, each with a part of the disk; kilobytes a second.
move() {
    amount=$((mebibytes << 20))
    [ $3 = 4096 ] && amount=$((amount / 8))
    count=$((amount / $3 / $4)) part=0 start=$(hundredths)
    while [ $part -lt $4 ]; do
        case $2 in
        read) dd if=/dev/$1 of=/dev/null bs=$3 count=$count skip=$((part * count)) iflag=direct 2>/dev/null & ;;
        write) dd if=/dev/zero of=/dev/$1 bs=$3 count=$count seek=$((part * count)) oflag=direct 2>/dev/null & ;;
        esac
        part=$((part + 1))
    done
    wait
    took=$(($(hundredths) - start))
    echo "figure $2 $3 $4 $1 $((amount / 10 / (took > 0 ? took : 1)))"
}
round=0
while [ $round -lt $rounds ]; do
    for what in read write; do
        for bytes in 4096 131072; do
            for depth in 1 8; do
                for disk in xvda xvdb; do move $disk $what $bytes $depth; done
            done
        done
    done
    round=$((round + 1))
done
X
# Medians of what `measure` has told, as a table: what, the kernel's, ours, and the middle, lowest and highest ratio of neighbours.
medians() {
    awk '/^figure/ {
        key = sprintf("%s %d KiB, %s", $2, $3 / 1024, $4 == 1 ? "one at a time" : "eight")
        if ($5 == "xvda") kernel = $6
        else { n = ++count[key]; k[key, n] = kernel; o[key, n] = $6; r[key, n] = $6 / kernel; if (n == 1) order[++keys] = key }
    }
    function sorted(values, key, n, i, j, x) {
        for (i = 1; i <= n; i++) s[i] = values[key, i]
        for (i = 2; i <= n; i++) for (j = i; j > 1 && s[j - 1] > s[j]; j--) { x = s[j]; s[j] = s[j - 1]; s[j - 1] = x }
    }
    END {
        for (i = 1; i <= keys; i++) {
            key = order[i]; n = count[key]; middle = int((n + 1) / 2)
            sorted(k, key, n); kernel = s[middle]; sorted(o, key, n); ours = s[middle]; sorted(r, key, n)
            printf "| %s | %d kB/s | %d kB/s | %.2f (%.2f .. %.2f) |\n", key, kernel, ours, s[middle], s[1], s[n]
        }
    }'
}
# STORY TARGET WHAT
beside_the_kernel() {
    if lab-guest run -t 900 -d "format=raw,vdev=xvda,access=rw,target=$2" -d "$(disk raw xvdb rw "$2")" /images/measure "$rounds" "$mebibytes" >/tmp/told &&
        clean "$1" && [ "$(grep -c ^figure /tmp/told)" = $((rounds * 16)) ]; then
        printf "| %s | the kernel's | ours | ours : the kernel's |\n| --- | --- | --- | --- |\n" "$3"
        medians </tmp/told
        ok "$1"
    else
        cat /tmp/told
        failed "$1" "status $?"
    fi
}
beside_the_kernel figures_of_a_file /images/figures.img 'a file'
beside_the_kernel figures_of_a_block_device /dev/ram0 'a block device'
