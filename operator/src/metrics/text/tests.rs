use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Found, Wanted, scan};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn one(page: &str, name: &str, pairs: &[(&str, &str)]) -> Found {
    scan(page.as_bytes(), &[Wanted { name, labels: &labels(pairs) }])[0]
}

#[test]
fn finds_a_plain_sample_among_others() {
    let page = "# HELP a b\n# TYPE a gauge\na_b 3\na 1.5 1700000000000\nab 2\n";
    assert_eq!(one(page, "a", &[]), Found::Sum(1.5));
}

#[test]
fn adds_up_samples_with_matching_labels() {
    let page = "r{code=\"200\",path=\"/\"} 3\nr{path=\"/\", code=\"500\",} 4\nr{code=\"500\"}5\r\nr 7\n";
    assert_eq!(one(page, "r", &[]), Found::Sum(19.0));
    assert_eq!(one(page, "r", &[("code", "500")]), Found::Sum(9.0));
    assert_eq!(one(page, "r", &[("code", "404")]), Found::Nothing);
}

#[test]
fn reads_escapes_and_braces_in_label_values() {
    let page = "r{q=\"a\\\"b\\\\c\\nd}\",z=\"1\"} 2\n";
    assert_eq!(one(page, "r", &[("q", "a\"b\\c\nd}")]), Found::Sum(2.0));
    assert_eq!(one(page, "r", &[("z", "1")]), Found::Sum(2.0));
}

#[test]
fn takes_an_openmetrics_counter_by_its_family_name_and_ignores_exemplars() {
    let page = "r_total{a=\"b\"} 17 1700000000.5 # {trace_id=\"x\"} 0.67\n# EOF\n";
    assert_eq!(one(page, "r", &[]), Found::Sum(17.0));
    assert_eq!(one(page, "r_total", &[]), Found::Sum(17.0));
    assert_eq!(one("r 1\nr_total 17\n", "r", &[]), Found::Sum(1.0));
}

#[test]
fn a_sample_that_is_no_finite_number_spoils_its_series_only() {
    for bad in ["NaN", "+Inf", "-Inf", "1e400", "zwölf", "", "0x10"] {
        let page = format!("a{{x=\"1\"}} 1\na{{x=\"2\"}} {bad}\nb 2\n");
        assert_eq!(one(&page, "a", &[]), Found::Unusable, "{bad}");
        assert_eq!(one(&page, "a", &[("x", "1")]), Found::Sum(1.0), "{bad}");
        assert_eq!(one(&page, "b", &[]), Found::Sum(2.0), "{bad}");
    }
}

#[test]
fn a_number_cut_at_the_end_of_the_page_is_not_read() {
    assert_eq!(one("a 1\nb 12", "b", &[]), Found::Nothing);
}

#[test]
fn bytes_that_are_not_utf8_cost_only_their_line() {
    let page = b"\xff\xfe{ 1\na{x=\"\xff\"} 1\na 2\n";
    let none = BTreeMap::new();
    assert_eq!(scan(page, &[Wanted { name: "a", labels: &none }])[0], Found::Sum(3.0));
}

proptest! {
    #[test]
    fn survives_any_bytes(page in proptest::collection::vec(any::<u8>(), 0..400)) {
        let want = labels(&[("a", "b")]);
        let none = BTreeMap::new();
        let _ = scan(&page, &[Wanted { name: "a", labels: &want }, Wanted { name: "", labels: &none }]);
    }

    #[test]
    fn survives_pages_that_look_nearly_right(page in "[a{}=\",\\\\ 0-9.eE+\n#-]{0,200}") {
        let want = labels(&[("a", "0")]);
        for found in scan(page.as_bytes(), &[Wanted { name: "a", labels: &want }]) {
            if let Found::Sum(sum) = found {
                prop_assert!(sum.is_finite());
            }
        }
    }

    #[test]
    fn reads_back_any_label_value_and_number(value in "\\PC{0,20}", number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let page = format!("x{{a=\"other\"}} 1\nx{{b=\"\\\"\",a=\"{escaped}\"}} {number} 123\n");
        let expected = if value == "other" { return Ok(()) } else { Found::Sum(number) };
        prop_assert_eq!(one(&page, "x", &[("a", &value)]), expected);
    }
}
