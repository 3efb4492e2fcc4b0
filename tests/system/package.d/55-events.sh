# The operator's programs in event.d: once for each new signature, without privilege.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "event.d"
no_events() { [[ -z $(ls -A /var/lib/coreward/events) ]]; }
told=/run/event-test
mkdir -p "$told"
chmod 1777 "$told"
mkdir -p /etc/systemd/system/coreward-event@.service.d
cat >/etc/systemd/system/coreward-event@.service.d/test.conf <<EOF
[Service]
ReadWritePaths=$told
EOF
systemctl daemon-reload
cat >/etc/coreward/event.d/10-test <<EOF
#!/bin/sh
cat >$told/\$COREWARD_ID.json
id -u >$told/\$COREWARD_ID.uid
head -c 1 /var/lib/coreward/catalog.db >$told/\$COREWARD_ID.catalog 2>&1
EOF
chmod 755 /etc/coreward/event.d/10-test
printf '#!/bin/sh\nexit 3\n' >/etc/coreward/event.d/05-fails
chmod 755 /etc/coreward/event.d/05-fails

program segv events
crash "$exe"
crash "$exe"
assert_counted 2 "two crashes of one bug" "program=$exe"
id=$(coreward list "$exe" --json | jq -r '.[0].id')
check "a program in event.d is told about the new signature" eventually 30 test -s "$told/$id.catalog"
assert_eq "$exe" "$(jq -r .exe "$told/$id.json")" "it gets the record"
assert_eq "$(coreward info "$id" --json | jq -r .title)" "$(jq -r .title "$told/$id.json")" "with its title"
assert_eq 1 "$(find "$told" -name '*.json' -exec jq -r .exe {} + | grep -cFx "$exe")" "once"
check "it is not root" test "$(cat "$told/$id.uid")" -gt 0
check "and reads nothing of Coreward's" prints "denied" cat "$told/$id.catalog"
check "what failed is in the journal of its unit" eventually 10 prints "exit status 3" journalctl -u "coreward-event@$id.service"
check "nothing is left behind" eventually 10 no_events
check "coreward-event.path still waits" systemctl is-active --quiet coreward-event.path

rm -r /etc/coreward/event.d/* /etc/systemd/system/coreward-event@.service.d
systemctl daemon-reload
program segv events-none
new_signatures=$(metric coreward_new_signatures_total)
announced=$(metric coreward_events_announced_total)
has_risen() { [[ $(metric "$1") -gt $2 ]]; }
crash "$exe"
assert_counted 1 "a crash without a program in event.d" "program=$exe"
id=$(field "$exe" .id)
check "its signature is new" eventually 30 has_risen coreward_new_signatures_total "$new_signatures"
check "the daemon has announced it" eventually 30 has_risen coreward_events_announced_total "$announced"
check "nothing accumulates" eventually 10 no_events
assert_eq "" "$(journalctl -q -o cat -u "coreward-event@$id.service")" "no program's unit was started"
systemctl reset-failed 'coreward-event@*' 2>/dev/null || true

step "the examples that come with the package"
examples=/usr/share/doc/coreward/examples/event.d
cp $examples/10-mail $examples/20-chat /etc/coreward/event.d/
chmod 755 /etc/coreward/event.d/*
# A mail server as Debian sets it up for local mail, and what a chat does with its webhook.
cat >/etc/exim4/update-exim4.conf.conf <<'END'
dc_eximconfig_configtype='local'
dc_other_hostnames='localhost'
dc_local_interfaces='127.0.0.1'
dc_use_split_config='false'
dc_localdelivery='mail_spool'
END
must systemctl restart exim4.service
cat >/run/event-test/chat.py <<'END'
import http.server
class Chat(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open("/run/event-test/chat.json", "wb") as message:
            message.write(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200 if self.headers["Content-Type"] == "application/json" and self.path == "/hooks/secret" else 403)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8065), Chat).serve_forever()
END
systemd-run --quiet --unit=test-chat python3 /run/event-test/chat.py
echo http://127.0.0.1:8065/hooks/secret >/etc/coreward/chat-url
chmod 600 /etc/coreward/chat-url
# As the examples say it.
mkdir -p /etc/systemd/system/coreward-event@.service.d
cat >/etc/systemd/system/coreward-event@.service.d/examples.conf <<'END'
[Service]
Environment=MAIL_TO=bob@localhost SMTP_URL=smtp://localhost
LoadCredential=chat-url:/etc/coreward/chat-url
END
systemctl daemon-reload
program segv $'mailed\nBcc: root@localhost'
before=$(processes)
crash "$exe"
check "a new bug" eventually 60 is_count $((before + 1))
id=$(list_json | jq -r 'last | .id')
check "is mailed" eventually 30 grep --quiet "coreward info $id" /var/mail/bob
check "with its title as the subject" grep --quiet --fixed-strings "Subject: [$host] new crash: SIGSEGV in innermost" /var/mail/bob
assert_eq 0 "$(sed '/^$/q' /var/mail/bob | grep -c '^Bcc')" "and a program that names itself like a header adds none"
check "is told in the chat" eventually 30 jq -e --arg id "$id" '.text | contains("New crash on") and contains("coreward info \($id)")' /run/event-test/chat.json
check "nothing is left behind" eventually 10 no_events
check "no program failed" not systemctl is-failed "coreward-event@$id.service"
systemctl stop test-chat.service exim4.service
rm -r /etc/coreward/event.d/* /etc/coreward/chat-url /etc/systemd/system/coreward-event@.service.d
systemctl daemon-reload
systemctl reset-failed 'coreward-event@*' 2>/dev/null || true
