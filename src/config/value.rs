//! Sizes, time spans and booleans in systemd's syntax.

use std::time::Duration;

/// Parses a size such as `16G`, `512M`, `1073741824` or `infinity` into bytes. Units are powers of 1024 (coredump.conf(5)).
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    if text == "infinity" {
        return Some(u64::MAX);
    }
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    // A fraction such as 1.5G: the whole part and the fraction are scaled on their own, in integers.
    let (whole, fraction) = number.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok()?;
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let whole = if whole.is_empty() && digits > 0 { 0 } else { whole.parse::<u64>().ok()? };
    let part = (u128::from(fraction) << shift) / 10_u128.checked_pow(digits)?;
    whole.checked_mul(1 << shift)?.checked_add(u64::try_from(part).ok()?)
}

/// Parses a time span such as `10min`, `1h 30min`, `90` (seconds), `500ms` or `infinity` (systemd.time(7)).
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "infinity" {
        return Some(Duration::MAX);
    }
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let after = after.trim_start();
        let end = after.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "us" | "usec" => 1e-6,
            "ms" | "msec" => 1e-3,
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86400.0,
            "w" | "week" | "weeks" => 604_800.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = after.trim_start();
    }
    Some(total)
}

/// Parses `yes`, `no` and their synonyms (systemd.syntax(7)).
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [("0", Some(0)), ("1K", Some(1024)), ("1.5G", Some(3 << 29)), ("infinity", Some(u64::MAX))];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), expected, "{text}");
        }
        for text in ["", "G", "-1", "1X", "1e3", "99999999999999999999", "20E"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn times() {
        let seconds = |text| parse_duration(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("10min"), Some(600.0));
        assert_eq!(seconds("1h 30min"), Some(5400.0));
        assert_eq!(seconds("90"), Some(90.0));
        assert_eq!(seconds("500ms"), Some(0.5));
        for text in ["", "min", "5 parsecs", "-1s", "1.2.3s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
