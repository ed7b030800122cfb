use parking_lot::Mutex;

use super::*;

/// Writes down what happens.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Traced for Diary {
    fn pushed(&self, node: &NodeKey, resource_type: ResourceType, resources: usize) -> Box<dyn Answer> {
        self.0.lock().push(format!("{node} {} {resources}", resource_type.label()));
        Box::new(self.clone())
    }
}

impl Answer for Diary {
    fn acknowledged(self: Box<Self>) {
        self.0.lock().push("ack".to_owned());
    }

    fn refused(self: Box<Self>, message: &str) {
        self.0.lock().push(format!("nack {message}"));
    }
}

fn node() -> NodeKey {
    NodeKey::new("shop", "cart", "cart-0")
}

#[test]
fn a_change_is_followed_until_all_is_said() {
    let diary = Diary::default();
    let mark = |number| Some(Mark { number, traced: Arc::new(diary.clone()) });
    let mut trail = Trail::beginning_at(mark(1).as_ref());
    let push = |trail: &mut Trail, nonce: &str| trail.pushed(&node(), ResourceType::Route, 1, nonce);
    // What was there before the proxy came is no news to it.
    trail.sees(mark(1));
    push(&mut trail, "1");
    trail.said_all();
    assert!(diary.0.lock().is_empty());

    trail.sees(mark(2));
    push(&mut trail, "2");
    // Another look at the same, before all is said; the second response belongs to the change, too.
    trail.sees(mark(2));
    push(&mut trail, "3");
    trail.said_all();
    trail.sees(mark(2));
    push(&mut trail, "4");
    trail.answered("3", Some("too large"));
    trail.answered("2", None);
    for nonce in ["2", "4", "none"] {
        trail.answered(nonce, None);
    }
    let expected = ["shop/cart/cart-0 route 1", "shop/cart/cart-0 route 1", "nack too large", "ack"];
    assert_eq!(*diary.0.lock(), expected);
}

#[test]
fn a_proxy_that_never_answers_costs_a_bounded_list() {
    let mut trail = Trail::default();
    trail.sees(Some(Mark { number: 1, traced: Arc::new(Diary::default()) }));
    for nonce in 0..1000 {
        trail.pushed(&node(), ResourceType::Route, 1, &nonce.to_string());
    }
    assert_eq!(trail.waiting.len(), MAX_WAITING);
}
