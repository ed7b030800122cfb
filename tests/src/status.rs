//! What `GET /status` says, for tests to look at.

use serde_json::Value;

/// The whole page.
#[derive(Debug)]
pub struct View(pub Value);

/// A condition, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `status` is `True`.
    pub holds: bool,
    /// `reason`.
    pub reason: String,
    /// `message`.
    pub message: String,
}

impl View {
    /// The policy or split with this key, as far as it is there.
    ///
    /// # Errors
    ///
    /// The keys that are there instead.
    pub fn policy(&self, key: &str) -> Result<&Value, String> {
        let list = |name: &str| self.0[name].as_array().into_iter().flatten();
        let policies: Vec<&Value> = list("policies").chain(list("splits")).collect();
        policies.iter().copied().find(|policy| policy["key"] == key).ok_or_else(|| {
            format!("no {key} among {:?}", policies.iter().map(|policy| &policy["key"]).collect::<Vec<_>>())
        })
    }

    /// A condition of a policy.
    ///
    /// # Errors
    ///
    /// What is there instead.
    pub fn condition(&self, key: &str, name: &str) -> Result<Condition, String> {
        let policy = self.policy(key)?;
        let conditions = policy["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        let found = conditions.iter().find(|condition| condition["type"] == name);
        let found = found.ok_or_else(|| format!("{key} has no condition {name}: {policy}"))?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok(Condition { holds: found["status"] == "True", reason: text("reason"), message: text("message") })
    }

    /// Holds when a condition of a policy has this status and reason; gives its message.
    ///
    /// # Errors
    ///
    /// What is there instead.
    pub fn expect(&self, key: &str, name: &str, holds: bool, reason: &str) -> Result<String, String> {
        let condition = self.condition(key, name)?;
        if condition.holds == holds && condition.reason == reason {
            Ok(condition.message)
        } else {
            Err(format!("{name}: {condition:?}"))
        }
    }

    /// An arm of a split.
    ///
    /// # Errors
    ///
    /// The split as it is instead.
    pub fn arm(&self, key: &str, arm: &str) -> Result<&Value, String> {
        let split = self.policy(key)?;
        let arms = split["status"]["arms"].as_array().map_or(&[][..], Vec::as_slice);
        arms.iter().find(|one| one["service"] == arm).ok_or_else(|| format!("{key} has no arm {arm}: {split}"))
    }

    /// What an arm of a split has, in percent.
    ///
    /// # Errors
    ///
    /// The split as it is instead.
    pub fn percent(&self, key: &str, arm: &str) -> Result<f64, String> {
        let arm = self.arm(key, arm)?;
        arm["percent"].as_f64().ok_or_else(|| arm.to_string())
    }

    /// A rule of a policy, on its first target.
    ///
    /// # Errors
    ///
    /// What is there instead.
    pub fn rule(&self, key: &str, rule: &str) -> Result<&Value, String> {
        let policy = self.policy(key)?;
        let rules = policy["status"]["rules"].as_array().map_or(&[][..], Vec::as_slice);
        rules.iter().find(|one| one["name"] == rule).ok_or_else(|| format!("{key} has no rule {rule}: {policy}"))
    }

    /// Holds when a rule stands in this phase.
    ///
    /// # Errors
    ///
    /// The rule as it is instead.
    pub fn phase(&self, key: &str, rule: &str, phase: &str) -> Result<&Value, String> {
        let rule = self.rule(key, rule)?;
        if rule["phase"] == phase { Ok(rule) } else { Err(rule.to_string()) }
    }

    /// Holds when every proxy of a policy's targets has acknowledged this generation of it.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn programmed(&self, key: &str, generation: u64) -> Result<(), String> {
        let found = &self.policy(key)?["generation"];
        if found.as_u64().is_none_or(|found| found < generation) {
            return Err(format!("generation {found}, not yet {generation}"));
        }
        self.expect(key, "Programmed", true, "Programmed").map(drop)
    }
}
