//! Which engines this system allows, found out by trying.

/// Which engines this system allows: [`probe`] finds out.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// All engines that this program has for real networks, the best first.
    pub engines: Vec<EngineProbe>,
}

impl Probe {
    /// The engine that a server runs on when nobody chooses one: the first that is available.
    pub fn chosen(&self) -> Option<&EngineProbe> {
        self.engines.iter().find(|engine| engine.refusal.is_none())
    }
}

/// What one engine found.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EngineProbe {
    /// Its name, as [`Bound::engine_name`](crate::Bound::engine_name) has it.
    pub name: &'static str,
    /// Why a server can't run on it, with the way out; `None` when it can.
    pub refusal: Option<String>,
    /// What it asked the system for, in this order; what comes after a refusal was not asked for.
    pub features: Vec<Feature>,
}

/// One thing that an engine asks the system for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Feature {
    /// What the system calls it.
    pub name: &'static str,
    /// What sort of thing it is.
    pub kind: FeatureKind,
    /// Whether the engine can't do without.
    pub required: bool,
    /// Whether the system has it.
    pub granted: bool,
}

/// The sorts of things that engines ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FeatureKind {
    /// A flag with which the engine is set up.
    SetupFlag,
    /// An operation.
    Operation,
    /// Memory that is registered with the system.
    Registration,
    /// Something that the system says of itself.
    Property,
}

/// Tries each engine on this system: sets it up, asks for what it uses, and takes it down again.
///
/// ```
/// let probe = tidegate::probe();
/// match probe.chosen() {
///     Some(engine) => println!("servers run on {}", engine.name),
///     None => println!("no engine: {:?}", probe.engines[0].refusal),
/// }
/// ```
pub fn probe() -> Probe {
    let engines = vec![
        #[cfg(target_os = "linux")]
        super::uring::probe(),
        super::readiness::probe(),
    ];
    Probe { engines }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(name: &'static str, refusal: Option<&str>) -> EngineProbe {
        EngineProbe { name, refusal: refusal.map(str::to_owned), features: Vec::new() }
    }

    #[test]
    fn the_first_engine_that_is_available_is_chosen() {
        let probe = Probe { engines: vec![engine("a", Some("no")), engine("b", None), engine("c", None)] };
        assert_eq!(probe.chosen().map(|engine| engine.name), Some("b"));
        assert_eq!(Probe { engines: vec![engine("a", Some("no"))] }.chosen(), None);
    }
}
