use proptest::prelude::*;

use super::*;

fn render(text: &str, pods: &[&str]) -> String {
    let pods: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
    Template::parse(text).unwrap_or_else(|mistake| panic!("{text}: {mistake:?}")).render("shop", "cart", &pods)
}

#[test]
fn variables_become_what_they_stand_for() {
    for (text, query) in [
        ("queue_depth", "queue_depth"),
        (r#"q{namespace="$namespace",app='$service'}"#, r#"q{namespace="shop",app='cart'}"#),
        (r#"q{pod=~"$pods"}"#, r#"q{pod=~"cart\\-0|cart\\-1\\.x"}"#),
        (r#"q{path=~"/a$$"}"#, r#"q{path=~"/a$"}"#),
        (r#"q{path=~`/a$$`}"#, "q{path=~`/a$`}"),
        (r#"q{a="\"$service\\"} # ("#, r#"q{a="\"cart\\"} # ("#),
        ("sum(rate(q[1m])) # it's $5", "sum(rate(q[1m])) # it's $5"),
    ] {
        assert_eq!(render(text, &["cart-0", "cart-1.x"]), query);
    }
    assert_eq!(render(r#"q{pod=~"$pods"}"#, &[]), r#"q{pod=~"[^\\x00-\\x{10FFFF}]"}"#);
    assert_eq!(render(r#"q{pod=~"$pods"}"#, &["a\"\\\n"]), "q{pod=~\"a\\\"\\\\\\\\\\u000a\"}");
}

#[test]
fn mistakes_are_found_with_their_place() {
    for (text, place, words) in [
        ("  ", "  ", "empty"),
        ("$namespace", "$namespace", "outside of a string"),
        ("rate(q[$__interval])", "$__interval", "outside of a string"),
        (r#"q{a="$namespce"}"#, "$namespce", "no variable"),
        (r#"q{a=~".*$"}"#, "$", "begins no variable"),
        ("q{a=`$pods`}", "$pods", "backquotes"),
        (r#"q{a="b}"#, "\"", "no end"),
        ("q{a='b\n'}", "'", "no end"),
        ("sum(rate(q[1m])", "(", "never closed"),
        ("rate(q[1m)", ")", "closes no `(`"),
        ("q}", "}", "closes no `{`"),
    ] {
        let mistake = Template::parse(text).expect_err(text);
        assert_eq!(&text[mistake.start..mistake.end], place, "{text}");
        assert!(mistake.message.contains(words), "{text}: {mistake:?}");
    }
    let mistake = Template::parse(&"q+".repeat(2500)).expect_err("it is too long");
    assert!(mistake.message.contains("at most 4096"), "{mistake:?}");
}

#[test]
fn a_plain_selector_is_told_from_other_expressions() {
    for query in ["up", " up ", r#"up{a="}",b=~'c'}"#, "{__name__=\"up\"}", "job:up {a=\"b\"}"] {
        assert!(is_selector(query), "{query}");
    }
    for query in
        ["", "1", "5m", "Inf", "sum(up)", "up[1m]", "up offset 1m", "up + up", "up{a=\"b\"} > 1", "(up)", "up{", "-up"]
    {
        assert!(!is_selector(query), "{query}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_places_are_inside(text in any::<String>()) {
        let _ = is_selector(&text);
        if let Err(mistake) = Template::parse(&text) {
            prop_assert!(text.get(mistake.start..mistake.end).is_some());
        }
    }

    /// The literal holds a regular expression of the names, each escaped.
    #[test]
    fn pods_become_a_well_formed_expression(pods in prop::collection::vec("[-a-z.0-9\"'\\\\+*(|]{1,8}", 0..4)) {
        let template = Template::parse("\"$pods\"").expect("it is well formed");
        let query = template.render("a", "b", &pods);
        let literal: String = serde_json::from_str(&query).expect("its escapes are those of JSON");
        prop_assert!(regex_syntax::Parser::new().parse(&literal).is_ok());
        for pod in &pods {
            prop_assert!(literal.contains(&regex_syntax::escape(pod)));
        }
    }
}
