//! Timestamps: parsed as users of journalctl(1) write them (systemd.time(7)), and formatted.

use crate::config::parse_duration;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use std::time::Duration;

/// Parses the argument of `--since` and `--until`.
pub(super) fn argument(text: &str) -> Result<Timestamp, String> {
    let expected =
        "not a time: write \"2026-01-02 10:00\", \"10:00\", today, yesterday, -1h, \"2 days ago\" or @SECONDS";
    parse(text, &Zoned::now()).ok_or_else(|| expected.to_owned())
}

/// The time that `text` means at `now`.
fn parse(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = text.trim();
    let day = match text {
        "now" => return Some(now.timestamp()),
        "today" => Some(now.clone()),
        "yesterday" => Some(now.yesterday().ok()?),
        "tomorrow" => Some(now.tomorrow().ok()?),
        _ => None,
    };
    if let Some(day) = day {
        return Some(day.start_of_day().ok()?.timestamp());
    }
    if let Some(seconds) = text.strip_prefix('@') {
        let since = SignedDuration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
        return Timestamp::from_duration(since).ok();
    }
    let length = |text: &str| SignedDuration::try_from(parse_duration(text)?).ok();
    if let Some(before) = text.strip_suffix(" ago").or_else(|| text.strip_prefix('-')) {
        return now.timestamp().checked_sub(length(before)?).ok();
    }
    if let Some(after) = text.strip_suffix(" left").or_else(|| text.strip_prefix('+')) {
        return now.timestamp().checked_add(length(after)?).ok();
    }
    // These two may carry an offset, which the parser of a civil time would ignore.
    if let Ok(zoned) = text.parse::<Zoned>() {
        return Some(zoned.timestamp());
    }
    text.parse::<Timestamp>().ok().or_else(|| civil(text, now))
}

/// Parses a date, a time or both, in the time zone of this machine or in one named at the end. A leading weekday, as in the
/// output of `coreward info`, is ignored.
fn civil(text: &str, now: &Zoned) -> Option<Timestamp> {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let text = text.split_once(' ').filter(|(day, _)| DAYS.contains(day)).map_or(text, |(_, rest)| rest);
    if let Some(moment) = in_zone(text, now.time_zone(), now) {
        return Some(moment.timestamp());
    }
    let (text, zone) = text.rsplit_once(' ')?;
    if let Ok(zone) = TimeZone::get(zone) {
        return Some(in_zone(text, &zone, now)?.timestamp());
    }
    // Several zones may share an abbreviation such as EST, so only that of this machine is understood.
    let moment = in_zone(text, now.time_zone(), now)?;
    (moment.strftime("%Z").to_string() == zone).then(|| moment.timestamp())
}

fn in_zone(text: &str, zone: &TimeZone, now: &Zoned) -> Option<Zoned> {
    let is_time = text.contains(':') && !text.contains('-');
    let moment: DateTime = if is_time {
        now.with_time_zone(zone.clone()).date().to_datetime(text.parse::<Time>().ok()?)
    } else {
        text.parse().ok()?
    };
    moment.to_zoned(zone.clone()).ok()
}

/// A timestamp as records have it, in microseconds since 1970.
pub(super) fn microseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

/// The present time, as records have it.
pub(super) fn now_us() -> u64 {
    microseconds(Timestamp::now())
}

/// A timestamp of a record in the time zone of this machine; `None` if it is out of the calendar's range.
fn local(time_us: u64) -> Option<Zoned> {
    let moment = Timestamp::from_microsecond(i64::try_from(time_us).ok()?).ok()?;
    Some(moment.to_zoned(TimeZone::system()))
}

/// `2026-01-02 10:00:00`: sortable, and valid for `--since`.
pub(super) fn short(time_us: u64) -> String {
    Short::default().of(time_us)
}

/// [`short`] for many timestamps. The crashes of a storm share their minutes, and the calendar is expensive.
#[derive(Default)]
pub(super) struct Short {
    /// The last minute, in minutes since 1970, and its text.
    minute: Option<(u64, String)>,
}

impl Short {
    fn of(&mut self, time_us: u64) -> String {
        let mut text = String::new();
        self.push(&mut text, time_us);
        text
    }

    /// Appends a timestamp, in microseconds since 1970.
    pub(super) fn push(&mut self, text: &mut String, time_us: u64) {
        const MINUTE_US: u64 = 60_000_000;
        let number = time_us / MINUTE_US;
        if self.minute.as_ref().is_none_or(|(known, _)| *known != number) {
            // Since 1972 the offsets of all zones are whole minutes.
            let Some(moment) = local(number * MINUTE_US) else { return text.push_str(&format!("@{time_us}us")) };
            self.minute = Some((number, moment.strftime("%F %H:%M:").to_string()));
        }
        let seconds = time_us % MINUTE_US / 1_000_000;
        text.push_str(self.minute.as_ref().map_or("", |(_, shown)| shown.as_str()));
        text.extend([seconds / 10, seconds % 10].map(|digit| char::from(b'0' + u8::try_from(digit).unwrap_or(0))));
    }
}

/// `Fri 2026-01-02 10:00:00 CET (2h 5min ago)`.
pub(super) fn long(time_us: u64) -> String {
    let Some(moment) = local(time_us) else { return format!("@{time_us}us") };
    let now = Timestamp::now().as_microsecond();
    let distance = now - moment.timestamp().as_microsecond();
    let distance = match u64::try_from(distance) {
        Ok(before) => format!("{} ago", rough(Duration::from_micros(before))),
        Err(_) => format!("in {}", rough(Duration::from_micros(distance.unsigned_abs()))),
    };
    format!("{} ({distance})", moment.strftime("%a %F %T %Z"))
}

/// The two largest units of a time span.
pub(super) fn rough(time: Duration) -> String {
    const UNITS: [(&str, u64); 6] =
        [(" years", 31_557_600), (" months", 2_629_800), (" days", 86400), ("h", 3600), ("min", 60), ("s", 1)];
    let mut rest = time.as_secs();
    let mut parts = Vec::new();
    for (name, length) in UNITS {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            let name = if count == 1 && name.starts_with(' ') { &name[..name.len() - 1] } else { name };
            parts.push(format!("{count}{name}"));
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "less than 1s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time in Berlin, on a machine without a time zone database.
    fn now() -> Zoned {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        "2026-01-02T09:30:00Z".parse::<Timestamp>().unwrap().to_zoned(zone)
    }

    #[test]
    fn what_users_of_journalctl_write() {
        for (text, expected) in [
            ("2026-01-02", "2026-01-01T23:00:00Z"),
            ("2026-01-02 10:00", "2026-01-02T09:00:00Z"),
            ("2026-01-02 10:00:07", "2026-01-02T09:00:07Z"),
            ("2026-01-02T10:00:07", "2026-01-02T09:00:07Z"),
            ("2026-07-02 10:00", "2026-07-02T08:00:00Z"),
            ("2026-01-02T10:00:07Z", "2026-01-02T10:00:07Z"),
            ("2026-01-02T10:00:07.5+02:00", "2026-01-02T08:00:07.5Z"),
            ("2026-01-02 10:00:07+02:00", "2026-01-02T08:00:07Z"),
            ("2026-01-02 10:00 UTC", "2026-01-02T10:00:00Z"),
            ("Fri 2026-01-02 10:00:00 CET", "2026-01-02T09:00:00Z"),
            ("09:00", "2026-01-02T08:00:00Z"),
            ("09:00:01", "2026-01-02T08:00:01Z"),
            ("now", "2026-01-02T09:30:00Z"),
            ("today", "2026-01-01T23:00:00Z"),
            ("yesterday", "2025-12-31T23:00:00Z"),
            ("tomorrow", "2026-01-02T23:00:00Z"),
            ("-1h", "2026-01-02T08:30:00Z"),
            ("-1h 30min", "2026-01-02T08:00:00Z"),
            ("1h ago", "2026-01-02T08:30:00Z"),
            ("2 days ago", "2025-12-31T09:30:00Z"),
            ("+1min", "2026-01-02T09:31:00Z"),
            ("@1767348000", "2026-01-02T10:00:00Z"),
        ] {
            assert_eq!(parse(text, &now()), Some(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_nobody_can_mean() {
        for text in [
            "",
            "soon",
            "-",
            "ago",
            " ago",
            "1h",
            "2026",
            "2026-13-01",
            "2026-01-02 25:00",
            "2026-01-02 10:00 XYZ",
            "@",
            "@x",
            "-1 parsec",
            "infinity ago",
            "-infinity",
            "@1e300",
            "10:00 10:00",
        ] {
            assert_eq!(parse(text, &now()), None, "{text}");
        }
    }

    #[test]
    fn two_units_are_enough() {
        for (seconds, expected) in [
            (0, "less than 1s"),
            (59, "59s"),
            (3600, "1h"),
            (3661, "1h 1min"),
            (86400 + 7200 + 5, "1 day 2h"),
            (86400 * 3 + 5, "3 days"),
            (31_557_600 * 2 + 2_629_800, "2 years 1 month"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), expected);
        }
    }
}
