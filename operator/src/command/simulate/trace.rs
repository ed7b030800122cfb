//! Load as it was: lines of `SECONDS,REQUESTS_PER_SECOND`.

use std::time::Duration;

/// What was offered.
#[derive(Debug, PartialEq)]
pub(super) struct Trace {
    /// Requests per second from each time on, in order of time.
    pub(super) offered: Vec<(Duration, f64)>,
    /// Its end: the last line holds for as long as the one before.
    pub(super) length: Duration,
}

/// Reads a trace. Empty lines and those that begin with `#` are skipped, and so is a first line of headings.
///
/// # Errors
///
/// The first line that is none, with its number.
pub(super) fn read(text: &str) -> anyhow::Result<Trace> {
    let mut offered: Vec<(Duration, f64)> = Vec::new();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    for (position, (number, line)) in lines.enumerate() {
        let mut fields = line.split(',').map(|field| field.trim().parse::<f64>());
        let (at, rate) = match (fields.next(), fields.next(), fields.next()) {
            (Some(Ok(at)), Some(Ok(rate)), None) => (at, rate),
            _ if position == 0 && line.starts_with(|c: char| c.is_ascii_alphabetic()) => continue,
            _ => anyhow::bail!("line {}: expected SECONDS,REQUESTS_PER_SECOND, found {line:?}", number + 1),
        };
        let fits = (0.0..=1e6).contains(&at) && (0.0..=1e7).contains(&rate);
        anyhow::ensure!(fits, "line {}: expected seconds up to 1e6 and a rate up to 1e7, found {line:?}", number + 1);
        let at = Duration::from_secs_f64(at);
        anyhow::ensure!(
            offered.last().is_none_or(|(before, _)| *before < at),
            "line {}: times must rise, found {line:?}",
            number + 1
        );
        offered.push((at, rate));
    }
    let [.., (before, _), (last, _)] = offered[..] else {
        anyhow::bail!("at least two lines of SECONDS,REQUESTS_PER_SECOND are needed, found {}", offered.len());
    };
    Ok(Trace { offered, length: last + (last - before) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_holds_as_long_as_the_one_before() {
        let trace = read("seconds,rate\n0,100\n# lunch\n10, 200.5\n\n").expect("a trace");
        let expected = vec![(Duration::ZERO, 100.0), (Duration::from_secs(10), 200.5)];
        assert_eq!(trace, Trace { offered: expected, length: Duration::from_secs(20) });
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, part) in [
            ("0,1\n1;2\n", "line 2: expected SECONDS,REQUESTS_PER_SECOND, found \"1;2\""),
            ("0,1\n2,5\n1,5\n", "line 3: times must rise"),
            ("0,1\n1,NaN\n", "line 2: expected seconds up to 1e6"),
            ("0,1\n1,-5\n", "line 2: expected seconds up to 1e6"),
            ("0,1,2\n", "line 1: expected SECONDS"),
            ("0,1\n", "at least two lines"),
            ("", "at least two lines"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
