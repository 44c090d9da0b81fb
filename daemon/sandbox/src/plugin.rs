//! A component, compiled once and instantiated anew for every record, within its limits.
//!
//! The limits and what enforces each: instructions by fuel, wall time by epochs that a ticker thread counts, memory and
//! tables by [`Caps`], what comes out by wasmtime's hostcall fuel (bytes it copies for one call). All of them trap in
//! the guest and are told apart in [`name_failure`].

use std::{thread, time::Duration};

use cloister_wire::{
    record::Record,
    sandbox::{Description, Limits, PluginWorld, RecordResult},
};
use wasmtime::{
    Config, Engine, OptLevel, ResourceLimiter, Store, Trap,
    component::{Component, Linker},
};

use crate::{batch::Fate, verify};

mod cleaner {
    #![allow(missing_docs, unreachable_pub)] // generated
    wasmtime::component::bindgen!({ path: "../../plugins/sdk/wit", world: "cleaner" });
}
mod scorer {
    #![allow(missing_docs, unreachable_pub)] // generated
    wasmtime::component::bindgen!({ path: "../../plugins/sdk/wit", world: "scorer" });
}
pub(crate) use cleaner::exports::cloister::plugin::cleaning;
pub(crate) use scorer::exports::cloister::plugin::scoring;

/// How finely wall time is counted: a deadline is kept to within one tick.
const TICK: Duration = Duration::from_millis(10);
/// Largest component that is compiled; redact has 1 MB.
const MAX_COMPONENT: usize = 16 << 20;
/// Elements of all tables: function pointers, one a function that a guest calls indirectly.
const MAX_TABLE_ELEMENTS: usize = 20_000;
/// Core instances, memories and tables of one component; `wit-component` makes up to three of each.
const MAX_PARTS: usize = 8;

/// Why a component is not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the component has {0} bytes, more than {MAX_COMPONENT}")]
    TooLarge(usize),
    #[error("this is no WebAssembly component; build it with `cargo xtask plugins`")]
    Malformed,
    #[error("the component imports `{0}`, and a plugin may import nothing")]
    Imports(String),
    #[error("the component does not export the world `{0}` of cloister:plugin@1.0.0")]
    World(&'static str),
    #[error("the component could not describe itself: {0}")]
    Description(String),
    #[error("the engine could not be set up: {0}")]
    Engine(String),
}

/// A component that passed every check and may run on records.
pub(crate) struct Plugin {
    engine: Engine,
    world: World,
    limits: Limits,
    description: Description,
}

enum World {
    Cleaner(cleaner::CleanerPre<Caps>),
    Scorer(scorer::ScorerPre<Caps>),
}

impl Plugin {
    /// Compiles `bytes`, refuses what imports anything or lacks the world, and asks it to describe itself.
    pub(crate) fn load(bytes: &[u8], world: PluginWorld, limits: Limits) -> Result<Self, Refusal> {
        if bytes.len() > MAX_COMPONENT {
            return Err(Refusal::TooLarge(bytes.len()));
        }
        let engine = Engine::new(&config()).map_err(|error| Refusal::Engine(error.to_string()))?;
        // Never `deserialize`: precompiled code would run unchecked.
        let component = Component::from_binary(&engine, bytes).map_err(|_| Refusal::Malformed)?;
        if let Some((name, _)) = component.component_type().imports(&engine).next() {
            return Err(Refusal::Imports(name.to_owned()));
        }
        let world = link(&engine, &component, world)?;
        start_ticker(&engine);
        let unknown =
            Description { name: String::new(), version: String::new(), summary: String::new(), gives: Vec::new() };
        let mut plugin = Self { engine, world, limits, description: unknown };
        plugin.description = plugin.describe().map_err(Refusal::Description)?;
        Ok(plugin)
    }

    /// What the plugin says of itself.
    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    /// One record through an instance of its own.
    pub(crate) fn run(&self, record: &Record) -> Fate {
        let fate = match &self.world {
            World::Cleaner(pre) => self.clean(pre, record),
            World::Scorer(pre) => self.score(pre, record),
        };
        fate.unwrap_or_else(|reason| (RecordResult::Failed { reason }, None))
    }

    fn clean(&self, pre: &cleaner::CleanerPre<Caps>, record: &Record) -> Result<Fate, String> {
        let messages: Vec<cleaning::Message> = record
            .messages
            .iter()
            .map(|m| cleaning::Message { role: m.role.clone(), content: m.content.clone() })
            .collect();
        let outcome = self.call(|store| {
            let instance = pre.instantiate(&mut *store)?;
            instance.cloister_plugin_cleaning().call_clean(store, &messages)
        })?;
        verify::cleaned(record, outcome, &self.description)
    }

    fn score(&self, pre: &scorer::ScorerPre<Caps>, record: &Record) -> Result<Fate, String> {
        let messages: Vec<scoring::Message> = record
            .messages
            .iter()
            .map(|m| scoring::Message { role: m.role.clone(), content: m.content.clone() })
            .collect();
        let scores = self.call(|store| {
            let instance = pre.instantiate(&mut *store)?;
            instance.cloister_plugin_scoring().call_score(store, &messages)
        })?;
        verify::scored(scores, &self.description).map(|result| (result, None))
    }

    fn describe(&self) -> Result<Description, String> {
        let description = match &self.world {
            World::Cleaner(pre) => self.call(|store| {
                let instance = pre.instantiate(&mut *store)?;
                let cleaning::Description { name, version, summary, gives } =
                    instance.cloister_plugin_cleaning().call_describe(store)?;
                Ok(Description { name, version, summary, gives })
            }),
            World::Scorer(pre) => self.call(|store| {
                let instance = pre.instantiate(&mut *store)?;
                let scoring::Description { name, version, summary, gives } =
                    instance.cloister_plugin_scoring().call_describe(store)?;
                Ok(Description { name, version, summary, gives })
            }),
        }?;
        verify::description(&description)?;
        Ok(description)
    }

    /// Runs `body` in a fresh store with every limit set; a failure comes back as `kind: one line`.
    fn call<T>(&self, body: impl FnOnce(&mut Store<Caps>) -> wasmtime::Result<T>) -> Result<T, String> {
        let mut store = Store::new(&self.engine, Caps::new(self.limits.memory_bytes));
        store.limiter(|caps| caps);
        store.set_fuel(self.limits.fuel_per_record).map_err(|error| format!("trap: {error}"))?;
        let ticks = self.limits.deadline_ms.div_ceil(TICK.as_millis() as u64);
        store.set_epoch_deadline(ticks.saturating_add(1));
        store.epoch_deadline_trap();
        store.set_hostcall_fuel(usize::try_from(self.limits.output_bytes).unwrap_or(usize::MAX));
        let outcome = body(&mut store);
        outcome.map_err(|error| name_failure(&error, store.data(), &self.limits))
    }
}

/// The same answer on every machine, and as little of WebAssembly as a guest needs.
fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        // A copy-on-write image would need a file of the kernel's; the process may open none.
        .memory_init_cow(false);
    config
}

fn link(engine: &Engine, component: &Component, world: PluginWorld) -> Result<World, Refusal> {
    // INVARIANT: nothing is ever added to this linker.
    let pre = Linker::<Caps>::new(engine).instantiate_pre(component).map_err(|_| Refusal::Malformed)?;
    match world {
        PluginWorld::Cleaner => {
            cleaner::CleanerPre::new(pre).map(World::Cleaner).map_err(|_| Refusal::World("cleaner"))
        }
        PluginWorld::Scorer => scorer::ScorerPre::new(pre).map(World::Scorer).map_err(|_| Refusal::World("scorer")),
    }
}

/// Counts wall time for as long as the process lives; guests look at the count, so none can outrun it.
fn start_ticker(engine: &Engine) {
    let engine = engine.weak();
    thread::spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    });
}

/// Which limit ended a call, in the words of `RecordResult::Failed`.
fn name_failure(error: &wasmtime::Error, caps: &Caps, limits: &Limits) -> String {
    let Limits { fuel_per_record, deadline_ms, memory_bytes, output_bytes } = limits;
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => format!("fuel: the plugin ran over {fuel_per_record} instructions"),
        Some(Trap::Interrupt) => format!("deadline: the plugin ran over {deadline_ms} ms"),
        // A guest that is refused memory traps of itself; the refusal is the cause.
        _ if caps.refused => format!("memory: the plugin asked for more than {memory_bytes} bytes"),
        Some(trap) => format!("trap: {trap}"),
        // wasmtime keeps this error's type to itself; its text is all there is to know it by.
        None if error.root_cause().to_string().contains("allocated for hostcalls") => {
            format!("output: the plugin returned more than {output_bytes} bytes")
        }
        None => "invalid: the plugin's answer breaks the component model's rules".into(),
    }
}

/// What a guest may take, and whether it was refused more.
struct Caps {
    memory: usize,
    refused: bool,
}

impl Caps {
    fn new(memory_bytes: u64) -> Self {
        Self { memory: usize::try_from(memory_bytes).unwrap_or(usize::MAX), refused: false }
    }
}

impl ResourceLimiter for Caps {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory;
        self.refused |= !allowed;
        Ok(allowed)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= MAX_TABLE_ELEMENTS;
        self.refused |= !allowed;
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        MAX_PARTS
    }

    fn tables(&self) -> usize {
        MAX_PARTS
    }

    fn memories(&self) -> usize {
        1
    }
}
