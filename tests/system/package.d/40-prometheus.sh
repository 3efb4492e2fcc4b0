# Prometheus reads the metrics and fires alerts, and Alertmanager tells a webhook.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "the text format"
check "promtool check metrics" metrics_are_well_formed
headers=$(curl --silent --head "$(metrics_url)")
assert_contains "${headers,,}" "content-type: text/plain; version=0.0.4" "the content type is that of the text format"
headers=$(curl --silent --head --header 'Accept-Encoding: gzip' "$(metrics_url)")
assert_contains "${headers,,}" "content-encoding: gzip" "it is compressed for who accepts that"
address=$(metrics_url | cut -d/ -f3)
assert_contains "$(curl --silent "http://$address/")" '<a href="/metrics">' "/ leads there"
assert_eq 405 "$(curl --silent -o /dev/null -w '%{http_code}' -X POST "$(metrics_url)")" "other methods give 405"
assert_eq 404 "$(curl --silent -o /dev/null -w '%{http_code}' "$(metrics_url)s")" "other paths give 404"

step "labels on request"
mkdir -p /etc/coreward/coreward.conf.d
cat >/etc/coreward/coreward.conf.d/60-labels.conf <<'END'
[Coreward]
MetricLabels=unit container signature
END
check "the daemon is reloaded" systemctl reload coreward.service

step "the rules that come with the package"
shipped=0
for file in $(dpkg -L coreward | grep -E '(rules|alerts)[^/]*\.ya?ml$'); do
    check "promtool check rules $file" promtool check rules "$file"
    shipped=1
done
((shipped)) || fail "the package ships no alert rules"
monitoring=/usr/share/doc/coreward/monitoring
check "amtool check-config" amtool check-config $monitoring/alertmanager.yml
check "the dashboard is JSON" jq -e '.panels | length > 10' $monitoring/grafana-dashboard.json

step "Prometheus scrapes and an alert fires"
mkdir -p /tmp/prometheus
cat >/tmp/prometheus/prometheus.yml <<END
# Prometheus limits a scrape's time to the interval, and this machine is slow.
global: { scrape_interval: 4s, evaluation_interval: 2s }
rule_files: [ rules.yml, short.yml, $monitoring/coreward.rules.yml ]
alerting: { alertmanagers: [ static_configs: [ targets: [ "127.0.0.1:19093" ] ] ] }
scrape_configs:
  - job_name: coreward
    honor_labels: true
    static_configs: [ targets: [ "$address" ] ]
END
# The first is that of README.md, as written there (tests/documents.rs compares them).
cat >/tmp/prometheus/rules.yml <<'END'
groups:
  - name: crashes
    rules:
      - alert: FirstAlert
        expr: coredump_process_count{signal=~"SEGV|ABRT"} > 0
      - alert: ProcessCrashedAnew
        expr: increase(coredump_process_count{program="/opt/t/alert"}[2m]) > 0
END
# The shipped rules with a window of 40 s in place of ten minutes: to see an alert end.
sed 's/name: coreward/name: short/; s/alert: .*/&Short/; s/\[10m\]/[40s]/g; s/offset 10m/offset 40s/g' $monitoring/coreward.rules.yml >/tmp/prometheus/short.yml
check "promtool accepts the configuration" promtool check config /tmp/prometheus/prometheus.yml
# The receivers of the shipped example are webhooks at this port. One line for each message, with the time at which it came.
cat >/tmp/prometheus/webhook.py <<'END'
import http.server, json, time
class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("/tmp/prometheus/messages", "a") as messages:
            print(json.dumps({"at": time.time(), "path": self.path, **message}), file=messages, flush=True)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8060), Webhook).serve_forever()
END
: >/tmp/prometheus/messages
systemd-run --quiet --unit=test-webhook python3 /tmp/prometheus/webhook.py
# As shipped, but for how soon a group that has changed is told of again.
sed 's/group_interval: 1m/group_interval: 5s/' $monitoring/alertmanager.yml >/tmp/prometheus/alertmanager.yml
systemd-run --quiet --unit=test-alertmanager prometheus-alertmanager --config.file=/tmp/prometheus/alertmanager.yml \
    --storage.path=/tmp/prometheus/alertmanager --web.listen-address=127.0.0.1:19093 --cluster.listen-address=
systemd-run --quiet --unit=test-prometheus prometheus --config.file=/tmp/prometheus/prometheus.yml \
    --storage.tsdb.path=/tmp/prometheus/data --web.listen-address=127.0.0.1:19090
ask() { curl --silent --fail --get "http://127.0.0.1:19090/api/v1/$1" "${@:2}"; }
target_is_up() { ask targets | jq -e '.data.activeTargets[0].health == "up"'; }
check "the target is up" eventually 60 target_is_up
check "Alertmanager is ready" eventually 60 curl --silent --fail http://127.0.0.1:19093/-/ready

program segv alert
crash "$exe"
is_firing() { ask alerts | jq -e --arg p "$exe" '.data.alerts[] | select(.labels.alertname == "FirstAlert" and .labels.program == $p and .labels.signal == "SEGV" and .state == "firing")'; }
check "the alert for the new crash fires" eventually 60 is_firing
samples() { ask query --data-urlencode "query=coredump_process_count{program=\"$exe\"}" | jq -r '.data.result[] | "\(.metric.hostname) \(.value[1])"'; }
check "Prometheus has the hostname and the count" eventually 60 prints "$host 1" samples
# increase() is 0 for a series that begins at 1, so that only the second crash shows.
crash "$exe"
rises() { ask alerts | jq -e '.data.alerts[] | select(.labels.alertname == "ProcessCrashedAnew" and .state == "firing")'; }
check "an alert on the increase fires at the second crash" eventually 90 rises

step "a webhook hears of a crash within 30 seconds, and of its end"
program segv alert-box
make_root /tmp/alertbox "$exe"
crash systemd-nspawn --quiet --pipe -D /tmp/alertbox --machine=alertbox --hostname=alerthost /usr/bin/alert-box
# The alerts in messages so far, one a line, with the time at which the message came.
messages() { # ALERT STATUS PROGRAM
    jq -c --arg alert "$1" --arg status "$2" --arg program "$3" \
        '.at as $at | .path as $path | .alerts[] | select(.labels.alertname == $alert and .status == $status and .labels.program == $program) + {at: $at, path: $path}' \
        /tmp/prometheus/messages
}
is_told() { [[ $(messages "$@") ]]; }
check "the shipped alert arrives" eventually 60 is_told ProcessCrashed firing /usr/bin/alert-box
first=$(messages ProcessCrashed firing /usr/bin/alert-box | head -n 1)
assert_eq "/usr/bin/alert-box alerthost alertbox SEGV /chat" \
    "$(jq -r '[.labels.program, .labels.hostname, .labels.container, .labels.signal, .path] | join(" ")' <<<"$first")" \
    "with executable, host, container and signal, at the receiver that the example names"
assert_contains "$(jq -r .annotations.summary <<<"$first")" "/usr/bin/alert-box crashed with SIGSEGV on alerthost" "its summary is a sentence"
crashed=$(field /usr/bin/alert-box .time_us)
delay=$(jq --argjson crashed "$crashed" '.at - $crashed / 1000000' <<<"$first")
echo "        $delay s after the crash"
check "within 30 s of the crash" jq -en --argjson delay "$delay" '$delay > 0 and $delay < 30'
check "README's first alert arrives as well" eventually 30 is_told FirstAlert firing /usr/bin/alert-box
check "a new bug is told of" eventually 30 grep --quiet '"alertname": "NewSignature"' /tmp/prometheus/messages
check "the end of the alert is told of" eventually 120 is_told ProcessCrashedShort resolved /usr/bin/alert-box
check "the crash was told of as long as it is news" not is_told ProcessCrashed resolved /usr/bin/alert-box

step "from the alert to the named stack"
# The container is gone. What is known is what the message says: its labels, and the command in its description.
rm -r --one-file-system /tmp/alertbox
begun=$(date +%s%N)
command=$(jq -r .annotations.description <<<"$first" | grep -o 'coreward list .* --executable [^ ]*')
bash -c "$command" >/tmp/story.txt
id=$(grep -oE '\b[0-9a-f]{16}\b' /tmp/story.txt | tail -n 1)
check "the command of the alert shows the crash" grep --quiet alert-box /tmp/story.txt
coreward info "$id" >>/tmp/story.txt
check "coreward info names the functions" grep --quiet --perl-regexp '#0 .*innermost' /tmp/story.txt
coreward debug "$id" -- -batch -ex bt >>/tmp/story.txt 2>&1
check "and gdb, though the container is gone" grep --quiet --perl-regexp '#2 .*outermost' /tmp/story.txt
note <<<"alert $delay s after the crash; its three commands together $((($(date +%s%N) - begun) / 1000000)) ms"
cp /tmp/story.txt /run/vm/out/

step "somebody takes core_pattern away"
old_pattern=$(cat /proc/sys/kernel/core_pattern)
echo "|/bin/true %P" >/proc/sys/kernel/core_pattern
is_lost() { ask query --data-urlencode 'query=coreward_registered{setting="core_pattern"} == 0 and on (setting) time() - coreward_registered_changed_timestamp_seconds < 60' | jq -e '.data.result | length == 1'; }
check "Prometheus knows, and since when" eventually 30 is_lost
echo "$old_pattern" >/proc/sys/kernel/core_pattern
systemctl stop test-prometheus.service test-alertmanager.service test-webhook.service
cp /tmp/prometheus/messages /run/vm/out/
rm /etc/coreward/coreward.conf.d/60-labels.conf
systemctl reload coreward.service
