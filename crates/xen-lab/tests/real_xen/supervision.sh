# The tapdisk of a guest is killed, and its guest goes on with another one. What was under way when a tapdisk ends is known to
# nobody; while a guest stands still nothing is.
name=tapdisk_killed_and_replaced
kill $backend
sleep 1
start_backend --on-death restart
sleep 1
remember
lab-guest start -d "$(disk vhd xvda rw /images/a.vhd)" /images/work xvda --depth 16 >/dev/null && busy /images/a.vhd
well=yes
for time in 1 2; do
    xl pause guest && sleep 1 && kill -9 "$(pidof tapdisk)" && sleep 1 && xl unpause guest && busy /images/a.vhd ||
        well="no, after kill $time"
done
tell lab-stop 1 && lab-guest wait && clean $name && [ "$well" = yes ] && ok $name || failed $name "$well"
