# What the maintainer scripts of both families do, since no format can declare it; the scripts are made
# with this text in them. Nothing here fails an installation, and nothing starts or stops Wazuh.

# Keeps the logrotate file right for this machine: Wazuh's group may write to the folder of the logs, so
# logrotate asks for "su", but refuses the whole file where that group doesn't exist (yet). A file that
# somebody has changed or removed is left alone. With "new" it is also made.
rotate() {
    rotation
    wanted=$without
    if getent group wazuh >/dev/null 2>&1; then
        wanted=$with
    elif ! command -v getent >/dev/null && [ "$1" != new ]; then
        # Who knows.
        return 0
    fi
    if [ -f "$place" ]; then
        found=$(cat "$place")
        if [ "$found" != "$with" ] && [ "$found" != "$without" ]; then return 0; fi
        if [ "$found" = "$wanted" ]; then return 0; fi
    elif [ "$1" != new ] || [ -e "$place" ]; then
        return 0
    else
        (umask 022 && mkdir -p /etc/logrotate.d && : >"$place")
    fi
    printf '%s\n' "$wanted" >"$place"
}

# The two that are ours: with the group, and without.
rotation() {
    place=/etc/logrotate.d/wodle-office365
    with=$(cat /usr/share/wodle-office365/logrotate)
    without=$(printf '%s\n' "$with" | grep -v '^ *su ')
}

# Keeps one that somebody has changed, as rpm keeps an edited configuration.
save_rotation() {
    rotation
    if [ ! -f "$place" ]; then return 0; fi
    found=$(cat "$place")
    if [ "$found" != "$with" ] && [ "$found" != "$without" ]; then mv "$place" "$place.rpmsave"; fi
}

# Says so where Wazuh would refuse this version: a wodle whose program is not the one that its
# verify_sha256 names ends for good.
verify() {
    now=$(sha256sum /usr/bin/wodle-office365 | cut -d' ' -f1)
    if [ -z "$now" ]; then return 0; fi
    for file in /var/ossec/etc/ossec.conf /var/ossec/etc/shared/agent.conf; do
        if [ ! -f "$file" ]; then continue; fi
        # A line for each wodle block outside comments that starts this very program; bytes, not letters,
        # for a file may be of any encoding.
        known=$(
            export LC_ALL=C
            tr '\n\r\t' '   ' <"$file" |
                sed 's/<!--/\x01/g; s/-->/\x02/g; s/\x01[^\x02]*\x02//g; s/<\/wodle>/\n/g' |
                sed -n '/<wodle/{s/.*<wodle/<wodle/; /<command> *"*\/usr\/bin\/wodle-office365["< ]/p}' |
                sed -n 's/.*<verify_sha256>\([^<]*\)<.*/\1/p' |
                tr 'A-F' 'a-f' | sed 's/ //g; s/^$/empty/'
        )
        for hash in $known; do
            if [ "$hash" != "$now" ]; then
                echo "wodle-office365: the verify_sha256 in $file is not this version's:" \
                    "Wazuh would refuse to run it, and not try again. Put" \
                    "<verify_sha256>$now</verify_sha256> there and restart Wazuh" \
                    "(what a manager sent to its agents is changed at the manager)."
            fi
        done
    done
}
