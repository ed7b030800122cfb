//! Every class of mistake: where it is, what is said, and how to mend it.

use super::vocabulary;
use crate::language::{MAX_DEPTH, SentenceError, parse_adapt, parse_duration, parse_limit, parse_when};

/// The marked text, the message and the help.
fn parts(text: &str, error: &SentenceError) -> (String, String, String) {
    let place = text.get(error.start..error.end).unwrap().to_owned();
    (place, error.message.clone(), error.help.clone().unwrap_or_default())
}

#[track_caller]
fn when_fails(text: &str, place: &str, message: &str, help: &str) {
    let error = parse_when(text, &vocabulary()).expect_err(text);
    let found = parts(text, &error);
    assert_eq!(found, (place.to_owned(), message.to_owned(), help.to_owned()), "{text:?}");
}

#[track_caller]
fn limit_fails(text: &str, place: &str, message: &str) {
    let error = parse_limit(text).expect_err(text);
    let (found_place, found_message, _) = parts(text, &error);
    assert_eq!((found_place.as_str(), found_message.as_str()), (place, message), "{text:?}");
}

#[test]
fn a_wrong_word_names_the_nearest() {
    when_fails("cpv > 80%", "cpv", "unknown word `cpv`", "did you mean `cpu`?");
    when_fails("cpú > 80%", "cpú", "unknown word `cpú`", "did you mean `cpu`?");
    when_fails("queue_dept > 8", "queue_dept", "unknown word `queue_dept`", "did you mean `queue_depth`?");
    when_fails("latncy > 8ms", "latncy", "unknown word `latncy`", "did you mean `p99 latency`?");
    when_fails(
        "zebra > 1",
        "zebra",
        "unknown word `zebra`",
        "known words: cpu, memory, requests, errors, p50/p90/p99 latency, inflight, pods, hit_ratio, lag, queue_depth",
    );
    when_fails(
        "p95 latency > 1s",
        "p95",
        "`p95` is not measured",
        "write `p50 latency`, `p90 latency` or `p99 latency`",
    );
    when_fails("p99 > 1s", ">", "expected `latency`, found `>`", "write `p99 latency`");
    when_fails("cpu.mx > 8%", "mx", "expected `max`, `sum` or `mean`, found `mx`", "did you mean `max`?");
    when_fails("pods.max > 8", ".", "`pods` has one value for all pods", "write `pods`");
}

#[test]
fn a_number_without_its_unit_is_refused() {
    when_fails("cpu > 80", "80", "`cpu` is a ratio, and 80 is 8000%", "write `80%`");
    when_fails("90 < memory", "90", "`memory` is a ratio, and 90 is 9000%", "write `90%`");
    when_fails("p99 latency > 200", "200", "`p99 latency` is a time, and 200 has no unit", "write `200ms` or `200s`");
    when_fails(
        "cpu > 80% for 10",
        "10",
        "expected a duration such as `10s`, found `10`",
        "write `10s`, or another of ms, s, m, h, d",
    );
    when_fails("cpu > 80% for 5%", "5%", "expected a duration such as `10s`, found `5%`", "");
    when_fails("cpu > 80% for 0s", "0s", "`0s` is not between 1ms and 1d", "");
    when_fails("cpu > 80% for 2d", "2d", "`2d` is not between 1ms and 1d", "");
}

#[test]
fn dimensions_must_fit() {
    when_fails(
        "cpu > 5s",
        "cpu > 5s",
        "cannot compare: `cpu` is a ratio, `5s` is a time",
        "a ratio is written like `80%`",
    );
    when_fails(
        "cpu + pods > 1",
        "cpu + pods",
        "cannot add: `cpu` is a ratio, `pods` is a count",
        "a count is written like `20`",
    );
    when_fails(
        "errors > 5 per second",
        "errors > 5 per second",
        "cannot compare: `errors` is a ratio, `5 per second` is a rate per second",
        "a ratio is written like `80%`",
    );
}

#[test]
fn structure_is_checked() {
    when_fails("", "", "expected a metric or a number, found the end of the sentence", "");
    when_fails("cpu", "cpu", "expected a condition, found the metric `cpu`", "compare it: `cpu > 80%`");
    when_fails(
        "5 and true",
        "5",
        "expected a condition, found the number `5`",
        "compare it with `<`, `<=`, `>`, `>=`, `==` or `!=`",
    );
    when_fails("cpu >", "", "expected a metric or a number, found the end of the sentence", "");
    when_fails("cpu > 80% and", "", "expected a metric or a number, found the end of the sentence", "");
    when_fails("(cpu > 80%", "", "expected an operator or `)`, found the end of the sentence", "");
    when_fails("cpu > 80%)", ")", "expected `and`, `or`, `for`, `until` or the end of the sentence, found `)`", "");
    when_fails(
        "cpu > 80% utnil cpu < 70%",
        "utnil",
        "expected `and`, `or`, `for`, `until` or the end of the sentence, found `utnil`",
        "did you mean `until`?",
    );
    when_fails(
        "20% < cpu < 80%",
        "<",
        "comparisons cannot be chained",
        "join two with `and`: `20% < cpu and cpu < 80%`",
    );
    when_fails(
        "(cpu > 5%) + 1 > 2",
        "(cpu > 5%)",
        "expected a number or a metric, found a condition in parentheses",
        "join conditions with `and` or `or`",
    );
    when_fails("{cpu > 80%", ">", "expected `}`, found `>`", "");
    when_fails("cpu > and", "and", "expected a metric or a number, found `and`", "");
    when_fails("cpu ≥ 80%", "≥", "unexpected character '≥'", "write `>=`");
    when_fails("cpu > 80% # hot", "#", "unexpected character '#'", "");
}

#[test]
fn numbers_and_units_are_checked() {
    when_fails(
        "cpu > 80p",
        "p",
        "unknown unit `p`",
        "units are %, k, M, G, Ki, Mi, Gi, B, ms, s, m, h, d; put a space before a word",
    );
    when_fails("pods > 5K", "K", "unknown unit `K`", "did you mean `k`?");
    when_fails("pods > 1_000", "_000", "unknown unit `_000`", "write digits without `_`");
    when_fails("pods > 1e999", "1e999", "`1e999` is too large a number", "");
    when_fails("pods > 1e99999999999", "1e99999999999", "the exponent is too large", "");
    when_fails("lag > 1m30", "30", "expected a duration such as `30s`, found `30`", "");
}

#[test]
fn sentences_are_bounded() {
    let deep = "(".repeat(100_000);
    assert_eq!(
        parse_when(&deep, &vocabulary()).unwrap_err().message,
        "a sentence has at most 4096 bytes, this has 100000"
    );
    for open in ["(", "-", "not "] {
        let deep = open.repeat(MAX_DEPTH + 1);
        assert_eq!(parse_when(&deep, &vocabulary()).unwrap_err().message, "nested more than 32 deep", "{open}");
    }
    let long = vec!["1"; 1000].join("+");
    assert_eq!(parse_when(&long, &vocabulary()).unwrap_err().message, "a sentence has at most 512 words");
}

#[test]
fn limits_are_checked() {
    let no_scope = "expected `per pod` or `across all pods`, found the end of the sentence";
    limit_fails("30 requests per second", "", no_scope);
    limit_fails(
        "0 requests per second per pod",
        "0",
        "a limit of 0 requests would close the service, which is no rate limit",
    );
    limit_fails("-5 requests per second per pod", "-5", "a limit cannot be negative");
    limit_fails("nan requests per second per pod", "nan", "expected a number of requests, found `nan`");
    limit_fails("inf requests per second per pod", "inf", "expected a number of requests, found `inf`");
    limit_fails(
        "1e30 requests per second per pod",
        "1e30 requests per second",
        "more than 100000 requests per second cannot be limited exactly",
    );
    limit_fails(
        "1e30 requests per second across all pods",
        "1e30 requests per second",
        "more than 1000000000 requests per second cannot be limited exactly",
    );
    limit_fails(
        "100001 requests per second per pod",
        "100001 requests per second",
        "more than 100000 requests per second cannot be limited exactly",
    );
    limit_fails("0.5 requests per day per pod", "0.5 requests per day", "the smallest limit is 1 request per day");
    limit_fails(
        "0.3333 requests per second per pod",
        "0.3333 requests per second",
        "a limit has at most three decimals, this has more per second",
    );
    limit_fails("5% requests per second per pod", "5%", "expected a number of requests, found a ratio");
    limit_fails("30 request per secnd per pod", "secnd", "expected `second`, `minute`, `hour` or `day`, found `secnd`");
    limit_fails("30 rps per pod", "rps", "expected `requests`, found `rps`");
    limit_fails("30 requests per second per pot", "pot", "expected `pod`, `client ip` or `header`, found `pot`");
    limit_fails(
        "30 requests per second per pod across all pods",
        "across all pods",
        "a limit has exactly one of `per pod` and `across all pods`",
    );
    limit_fails(
        "30 requests per second per client ip per header a per pod",
        "per header a",
        "a limit has at most one of `per client ip` and `per header`",
    );
    limit_fails("30 requests per second per header", "", "expected a header's name, found the end of the sentence");
    limit_fails("30 requests per second per header ü per pod", "ü", "`ü` is no header's name");
}

#[test]
fn the_pace_of_a_limit_is_checked() {
    let limit = "keep cpu below 70%, between 2 and 5 requests per second per pod";
    for (rest, at, message, help) in [
        (", at most 20 per step", "20", "a step is more than 0% and at most 100%", Some("write `20%`")),
        (", at most 200% per step", "200%", "a step is more than 0% and at most 100%", None),
        (", at most 0% per step", "0%", "a step is more than 0% and at most 100%", None),
        (", at most 5s per step", "5s", "expected a part such as `20%`, found a time", None),
        (", at most 20% per stpe", "stpe", "expected `step`, found `stpe`", Some("did you mean `step`?")),
        (", at most cpu per step", "cpu", "expected a part such as `20%`, found `cpu`", None),
        (
            ", every 5",
            "5",
            "expected a duration such as `10s`, found `5`",
            Some("write `5s`, or another of ms, s, m, h, d"),
        ),
        (", every 1s, every 2s", "every 2s", "said twice", Some("leave one of the two out")),
        (
            ", evry 5s",
            "evry",
            "expected `at most … per step`, `every` or `cooldown`, found `evry`",
            Some("did you mean `every`?"),
        ),
        (", every 5s cooldown 5s", "cooldown", "expected `,` or the end of the sentence, found `cooldown`", None),
        (",", "", "expected `at most … per step`, `every` or `cooldown`, found the end of the sentence", None),
    ] {
        let text = format!("{limit}{rest}");
        let error = parse_adapt(&text, &vocabulary()).expect_err(&text);
        assert_eq!((error.message.as_str(), error.help.as_deref()), (message, help), "{text:?}");
        assert_eq!(&text[error.start..error.end], at, "{text:?}");
    }
    limit_fails(
        "30 requests per second per pod, every 5s",
        ",",
        "expected `per`, `across` or the end of the sentence, found `,`",
    );
}

#[test]
fn goals_are_checked() {
    for (text, message) in [
        ("keep cpu below 70, between 2 and 5 requests per second per pod", "`cpu` is a ratio, and 70 is 7000%"),
        (
            "keep cpu below 70%, between 20 and 5 requests per second per pod",
            "the lower bound is larger than the upper",
        ),
        (
            "keep cpu below 70%, between 2 and 5 requests per second",
            "expected `per pod` or `across all pods`, found the end of the sentence",
        ),
        ("keep cpu below 70%", "expected `and` or `between`, found the end of the sentence"),
        ("keep cpu above 70%, between 2 and 5 requests per second per pod", "expected `below`, found `above`"),
        ("hold cpu below 70%", "expected `keep`, found `hold`"),
        ("keep cpu below 0%, between 2 and 5 requests per second per pod", "a goal is larger than 0"),
        (
            "keep cpu below 7%, between 2 and 5 requests per second per client ip per pod",
            "a limit that steers itself is for all requests together",
        ),
    ] {
        assert_eq!(parse_adapt(text, &vocabulary()).expect_err(text).message, message, "{text:?}");
    }
}

#[test]
fn durations_are_checked() {
    assert_eq!(parse_duration("1m30s").unwrap().as_secs(), 90);
    assert!(parse_duration("15").is_err());
    assert!(parse_duration("15s ago").is_err());
    assert!(parse_duration("-5s").is_err());
    assert!(parse_duration("0.0001ms").is_err());
}

#[test]
fn a_problem_prints_with_its_column() {
    let error = parse_when("1 < 5 ü", &vocabulary()).unwrap_err();
    let problem = error.into_problem("spec.rules[0].when", "1 < 5 ü");
    assert!(problem.to_string().starts_with("spec.rules[0].when: column 7: unexpected character 'ü'"), "{problem}");
}
