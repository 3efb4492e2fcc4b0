# Prometheus reads the metrics and fires alerts.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "the text format"
check "promtool check metrics" metrics_are_well_formed
headers=$(curl --silent --head "$(metrics_url)")
assert_contains "${headers,,}" "content-type: text/plain; version=0.0.4" "the content type is that of the text format"
assert_eq 404 "$(curl --silent -o /dev/null -w '%{http_code}' "$(metrics_url)s")" "other paths give 404"

step "the rules that come with the package"
shipped=0
for file in $(dpkg -L coreward | grep -E '(rules|alerts)[^/]*\.ya?ml$'); do
    check "promtool check rules $file" promtool check rules "$file"
    shipped=1
done
((shipped)) || fail "the package ships no alert rules"

step "Prometheus scrapes and an alert fires"
mkdir -p /tmp/prometheus
cat >/tmp/prometheus/prometheus.yml <<END
# Prometheus limits a scrape's time to the interval, and this machine is slow.
global: { scrape_interval: 4s, evaluation_interval: 2s }
rule_files: [ rules.yml ]
scrape_configs:
  - job_name: coreward
    honor_labels: true
    static_configs: [ targets: [ "$(metrics_url | cut -d/ -f3)" ] ]
END
cat >/tmp/prometheus/rules.yml <<'END'
groups:
  - name: crashes
    rules:
      - alert: ProcessCrashed
        expr: coredump_process_count{signal=~"SEGV|ABRT"} > 0
      - alert: ProcessCrashedAnew
        expr: increase(coredump_process_count{program="/opt/t/alert"}[2m]) > 0
END
check "promtool accepts the configuration" promtool check config /tmp/prometheus/prometheus.yml
systemd-run --quiet --unit=test-prometheus prometheus --config.file=/tmp/prometheus/prometheus.yml \
    --storage.tsdb.path=/tmp/prometheus/data --web.listen-address=127.0.0.1:19090
ask() { curl --silent --fail --get "http://127.0.0.1:19090/api/v1/$1" "${@:2}"; }
target_is_up() { ask targets | jq -e '.data.activeTargets[0].health == "up"'; }
check "the target is up" eventually 60 target_is_up

program segv alert
crash "$exe"
is_firing() { ask alerts | jq -e --arg p "$exe" '.data.alerts[] | select(.labels.program == $p and .labels.signal == "SEGV" and .state == "firing")'; }
check "the alert for the new crash fires" eventually 60 is_firing
samples() { ask query --data-urlencode "query=coredump_process_count{program=\"$exe\"}" | jq -r '.data.result[] | "\(.metric.hostname) \(.value[1])"'; }
check "Prometheus has the hostname and the count" eventually 60 prints "$host 1" samples
# increase() is 0 for a series that begins at 1, so that only the second crash shows.
crash "$exe"
rises() { ask alerts | jq -e '.data.alerts[] | select(.labels.alertname == "ProcessCrashedAnew" and .state == "firing")'; }
check "an alert on the increase fires at the second crash" eventually 90 rises
systemctl stop test-prometheus.service
