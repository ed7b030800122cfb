//! What a `WorkloadScope` says, and what it is to say.

use crds::{CallScope, WorkloadScope, WorkloadScopeStatus, workload_scope};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use limiter::problem::{Problem, Reason};

use super::asked::{Remembered, Why};
use crate::intent::{Called, DestinationKey};

/// What an object says, and what of it cannot be understood.
#[must_use]
pub fn memory(scope: WorkloadScope) -> (Vec<Remembered>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut memory = Vec::new();
    for (place, CallScope { to, why, since, last_used }) in
        scope.status.unwrap_or_default().calls.into_iter().enumerate()
    {
        match destination(&to) {
            Some(to) => {
                let why = match why {
                    workload_scope::Why::OnDemand => Why::OnDemand,
                    workload_scope::Why::Learned => Why::Learned,
                };
                memory.push(Remembered { to, why, since: since.0, used: last_used.0 });
            }
            None => problems.push(Problem {
                field: format!("status.calls[{place}].to"),
                reason: Reason::Invalid,
                message: format!("expected namespace/service/port or host:port, found {to:?}"),
                help: Some("Weir writes this object: delete it, and Weir makes it anew".to_owned()),
                place: None,
            }),
        }
    }
    (memory, problems)
}

/// `namespace/name/port`, or `host:port` outside.
fn destination(text: &str) -> Option<DestinationKey> {
    if text.contains('/') {
        return match text.parse().ok()? {
            Called::Destination(key) if !key.is_outside() => Some(key),
            _ => None,
        };
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty()).then(|| DestinationKey::outside(host, port))
}

/// The status of an object that says this.
#[must_use]
pub fn status(memory: &[Remembered]) -> WorkloadScopeStatus {
    let call = |one: &Remembered| CallScope {
        to: one.to.named(),
        why: if one.why == Why::Learned { workload_scope::Why::Learned } else { workload_scope::Why::OnDemand },
        since: Time(one.since),
        last_used: Time(one.used),
    };
    WorkloadScopeStatus {
        count: i64::try_from(memory.len()).unwrap_or(i64::MAX),
        calls: memory.iter().map(call).collect(),
    }
}

#[cfg(test)]
mod tests {
    use crds::WorkloadScopeSpec;
    use jiff::Timestamp;

    use super::*;
    use crate::intent::ServiceKey;

    #[test]
    fn what_is_written_is_read_again() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let cart = DestinationKey { service: ServiceKey { namespace: "shop".into(), name: "cart".into() }, port: 80 };
        let outside = DestinationKey::outside("api.stripe.example", 443);
        let known = [(cart, Why::OnDemand), (outside, Why::Learned)];
        let known = known.map(|(to, why)| Remembered { to, why, since: at, used: at });
        let mut scope = WorkloadScope::new("page", WorkloadScopeSpec::default());
        scope.status = Some(status(&known));
        let text: Vec<&str> = scope.status.iter().flat_map(|status| &status.calls).map(|call| &*call.to).collect();
        assert_eq!(text, ["shop/cart/80", "api.stripe.example:443"]);
        assert_eq!(memory(scope), (known.to_vec(), Vec::new()));
    }

    #[test]
    fn what_a_person_wrote_into_it_is_said() {
        let mut scope = WorkloadScope::new("page", WorkloadScopeSpec::default());
        let call = |to: &str| CallScope {
            to: to.to_owned(),
            why: workload_scope::Why::OnDemand,
            since: Time(Timestamp::UNIX_EPOCH),
            last_used: Time(Timestamp::UNIX_EPOCH),
        };
        let wrong = ["", "cart", "shop/cart", "shop/cart/0x", "shop/cart/99999", "a:0", ":80", "/a/80"];
        scope.status = Some(WorkloadScopeStatus { count: 0, calls: wrong.map(call).to_vec() });
        let (memory, problems) = memory(scope);
        assert_eq!((memory, problems.len()), (Vec::new(), wrong.len()));
        let said = problems[1].to_string();
        assert!(said.contains("status.calls[1].to") && said.contains("\"cart\""), "{said}");
    }
}
