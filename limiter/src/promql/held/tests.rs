use proptest::prelude::*;

use super::*;
use crate::promql::Template;

fn held(text: &str) -> String {
    hold(text, "namespace", "shop").unwrap_or_else(|mistake| panic!("{text}: {mistake:?}"))
}

#[test]
fn every_selector_gets_the_matcher() {
    const N: &str = "namespace=\"shop\"";
    for (text, query) in [
        ("depth", "depth{N}"),
        ("{}", "{N}"),
        ("depth{}", "depth{N}"),
        (r#"depth {a="b",}"#, r#"depth {N,a="b",}"#),
        (r#"{"queue.depth", a!~'b'}"#, r#"{N,"queue.depth", a!~'b'}"#),
        (r#"depth{namespace="$namespace",pod=~"$pods"}"#, r#"depth{N,namespace="$namespace",pod=~"$pods"}"#),
        (r#"depth{namespace='shop'}"#, r#"depth{N,namespace='shop'}"#),
        ("sum by (pod) (rate(hits[1m] offset -5m))", "sum by (pod) (rate(hits{N}[1m] offset -5m))"),
        ("sum(hits) BY (pod, job)", "sum(hits{N}) BY (pod, job)"),
        ("topk(3, hits) / scalar(vector(1))", "topk(3, hits{N}) / scalar(vector(1))"),
        ("a + on (x) group_left (y) b", "a{N} + on (x) group_left (y) b{N}"),
        ("a > bool ignoring (x) group_right -b", "a{N} > bool ignoring (x) group_right -b{N}"),
        ("a unless (b or c) and 1.5e3", "a{N} unless (b{N} or c{N}) and 1.5e3"),
        ("max_over_time(a[1h:5m] @ end())", "max_over_time(a{N}[1h:5m] @ end())"),
        ("max_over_time((a)[1h:])[5m:1m] @ -12.5", "max_over_time((a{N})[1h:])[5m:1m] @ -12.5"),
        ("a # b, c{\n+ job:d:rate # {x}", "a{N} # b, c{\n+ job:d:rate{N} # {x}"),
        ("a #\rb", ""),
        (r#"a{b="} or c{"} == inf"#, r#"a{N,b="} or c{"} == inf"#),
        ("a{b=`\\`} + c", "a{N,b=`\\`} + c{N}"),
        ("label_replace(a, \"to\", \"$$1\", 'from', '(.*)')", "label_replace(a{N}, \"to\", \"$$1\", 'from', '(.*)')"),
        ("avg(sum(x))", "avg(sum(x{N}))"),
        ("time() - timestamp(a)", "time() - timestamp(a{N})"),
    ] {
        if query.is_empty() {
            assert!(hold(text, "namespace", "shop").is_err(), "{text:?}");
        } else {
            assert_eq!(held(text), query.replace('N', N), "{text}");
        }
    }
}

#[test]
fn what_could_read_more_is_refused_with_its_place() {
    for (text, place, words) in [
        (r#"a{namespace="till"}"#, r#"namespace="till""#, "namespace=\"shop\" alone"),
        (r#"a{namespace=~"shop|till"}"#, r#"namespace=~"shop|till""#, "alone"),
        (r#"a{b="c",'namespace'!=""}"#, r#"'namespace'!="""#, "alone"),
        // Other dialects, and Prometheus to come.
        (r#"a{b="c" or d="e"}"#, "or", "not understood"),
        ("WITH (x = a) x", "=", "not understood"),
        ("a default b", "default", "not understood"),
        ("a smoothed", "smoothed", "not understood"),
        ("info(a)", "info", "no matcher"),
        ("a[step()]", "step", "not understood"),
        ("a[b]", "b", "not understood"),
        ("a offset b", "b", "not understood"),
        ("a @ b", "b", "not understood"),
        // Keywords are names of metrics, too.
        ("sum(by)", "by", "a word of PromQL"),
        ("a + offset", "offset", "a word of PromQL"),
        ("Bool{a=\"b\"}", "Bool", "a word of PromQL"),
        ("on", "on", "a word of PromQL"),
        ("a b", "b", "not understood"),
        ("5:a", ":a", "not understood"),
        ("a; b", ";", "not understood"),
        ("ä", "ä", "not understood"),
        ("a +", "", "something is missing"),
        ("sum by (pod)", "", "something is missing"),
    ] {
        let mistake = hold(text, "namespace", "shop").expect_err(text);
        assert_eq!(&text[mistake.start..mistake.end], place, "{text}: {mistake:?}");
        assert!(mistake.message.contains(words), "{text}: {mistake:?}");
    }
    let deep = format!("{}a{}", "(".repeat(1000), ")".repeat(1000));
    assert!(hold(&deep, "namespace", "shop").unwrap_err().message.contains("64 deep"));
    let long = vec!["a"; 1000].join("+");
    assert!(hold(&long, "namespace", "shop").unwrap_err().message.contains("4096 bytes"));
}

proptest! {
    #[test]
    fn any_text_is_held_or_refused(text in r#"([a-z]{1,4}|[0-9.]{1,3}| |\(|\)|\[|\]|\{|\}|,|\+|-|=|!|~|@|:|#|"|'|`|\\|\n|by|on|sum|offset|ä){0,24}"#) {
        if Template::parse(&text).is_ok() && let Ok(held) = hold(&text, "namespace", "shop") {
            prop_assert!(Template::parse(&held).is_ok(), "{held}");
            let put_in = ["{namespace=\"shop\"}", "namespace=\"shop\",", "namespace=\"shop\""];
            let without = put_in.iter().fold(held, |held, matcher| held.replace(matcher, ""));
            // Braces with nothing in them become the whole matcher, and are gone with it.
            let bare = |text: &str| text.replace("{}", "");
            prop_assert_eq!(bare(&without), bare(&text));
        }
    }
}
