//! Times as people write them: `90`, `60s`, `5m`, `500ms`, `1h 30m`.

use std::time::Duration;

/// A time with its unit, or a number of seconds.
///
/// # Errors
///
/// What was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time with its unit, such as 500ms, 30s, 5m or 1h"))
}

/// The same in whole seconds, from one to a day.
///
/// # Errors
///
/// What was expected.
pub fn seconds_within_a_day(text: &str) -> Result<u64, String> {
    let time = duration(text)?;
    let seconds = time.as_secs();
    if time.subsec_nanos() != 0 || !(1..=24 * 60 * 60).contains(&seconds) {
        return Err("expected a time from 1s to 24h in whole seconds, such as 90, 60s or 5m".to_owned());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("30", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("0s", 0),
            ("1.5s", 1500),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "5 parsecs", "99999999999999999999s", "9999999999999999999m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_to_confirm_in_are_a_day_at_most() {
        for (text, expected) in
            [("90", 90), ("60s", 60), ("5m", 300), ("24h", 86_400), ("1day", 86_400), ("1.5m", 90)]
        {
            assert_eq!(seconds_within_a_day(text), Ok(expected), "{text}");
        }
        for text in
            ["", "0", "s", "5d", "-1", "25h", "500ms", "1.5s", "99999999999999999999", "6148914691236517206m"]
        {
            assert!(seconds_within_a_day(text).is_err(), "{text}");
        }
    }
}
