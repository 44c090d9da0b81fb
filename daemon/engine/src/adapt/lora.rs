//! A new LoRA adapter for a base (Hu et al. 2021): which layers it touches, and the values it starts from.
//!
//! As PEFT: A is uniform in ±1/√in (what `kaiming_uniform_(a=√5)` comes to), B is zero, so that the first
//! forward is the base's. INVARIANT: a module's A depends on seed and module path alone.

use std::collections::BTreeSet;

use cloister_wire::recipe::Lora;
use tch::{Device, Kind, Tensor};

use super::{AdaptError, Adapter, LoraPair};
use crate::model::ModuleInfo;
use crate::random::Stream;

/// PEFT's word for every linear layer of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// The adapter with which training begins; its tensors require gradients.
pub fn init(modules: &[ModuleInfo], lora: &Lora, seed: u64, device: Device) -> Result<Adapter, AdaptError> {
    let mut adapter = Adapter::default();
    for module in matching(modules, &lora.targets)? {
        let rank = i64::from(lora.rank);
        let a = draw(module, rank, seed).to_device(device);
        let b = Tensor::zeros([module.out_features, rank], (Kind::Float, device));
        let pair = LoraPair {
            a: a.set_requires_grad(true),
            b: b.set_requires_grad(true),
            scale: lora.alpha / f64::from(lora.rank),
            dropout: lora.dropout,
        };
        adapter.modules.insert(module.path.clone(), pair);
    }
    Ok(adapter)
}

/// The modules that a recipe's targets name; a target that names none is an error.
pub fn matching<'m>(modules: &'m [ModuleInfo], targets: &[String]) -> Result<Vec<&'m ModuleInfo>, AdaptError> {
    if let Some(target) = targets.iter().find(|target| !modules.iter().any(|m| matches(&m.path, target))) {
        return Err(AdaptError::Target { target: target.clone(), choices: choices(modules) });
    }
    Ok(modules.iter().filter(|m| targets.iter().any(|target| matches(&m.path, target))).collect())
}

/// Whether a target names a module: all of them, or by the last parts of its path.
pub fn matches(path: &str, target: &str) -> bool {
    target == ALL_LINEAR
        || path
            .strip_suffix(target)
            .is_some_and(|front| !target.is_empty() && (front.is_empty() || front.ends_with('.')))
}

fn choices(modules: &[ModuleInfo]) -> String {
    let last: BTreeSet<&str> = modules.iter().filter_map(|m| m.path.rsplit('.').next()).collect();
    last.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// A `[rank, in_features]`.
fn draw(module: &ModuleInfo, rank: i64, seed: u64) -> Tensor {
    let bound = 1.0 / (module.in_features as f32).sqrt();
    let mut stream = Stream::new(seed, &format!("lora_A {}", module.path));
    let values: Vec<f32> = (0..rank * module.in_features).map(|_| stream.symmetric(bound)).collect();
    Tensor::from_slice(&values).view([rank, module.in_features])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn modules() -> Vec<ModuleInfo> {
        ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
            .map(|path| ModuleInfo { path: path.into(), in_features: 16, out_features: 8 })
            .into()
    }

    fn lora(targets: &[&str]) -> Lora {
        Lora { rank: 4, targets: targets.iter().map(|t| t.to_string()).collect(), ..Lora::default() }
    }

    #[test]
    fn targets_are_last_parts_of_names() {
        let count = |targets: &[&str]| init(&modules(), &lora(targets), 1, Device::Cpu).unwrap().modules.len();
        assert_eq!(count(&[ALL_LINEAR]), 3);
        assert_eq!(count(&["q_proj"]), 2);
        assert_eq!(count(&["0.self_attn.q_proj", "up_proj"]), 2);
    }

    #[test]
    fn a_target_that_matches_nothing_names_the_choices() {
        for target in ["proj", "k_proj", ""] {
            let error = init(&modules(), &lora(&["q_proj", target]), 1, Device::Cpu).unwrap_err().to_string();
            assert!(error.contains(&format!("`{target}`")) && error.contains("\"up_proj\""), "{error}");
        }
    }

    #[test]
    fn a_module_starts_the_same_whatever_else_is_trained() {
        let path = "model.layers.1.self_attn.q_proj";
        let all = init(&modules(), &lora(&[ALL_LINEAR]), 5, Device::Cpu).unwrap();
        let some = init(&modules(), &lora(&["q_proj"]), 5, Device::Cpu).unwrap();
        let other = init(&modules(), &lora(&["q_proj"]), 6, Device::Cpu).unwrap();
        assert_eq!(all.modules[path].a, some.modules[path].a);
        assert_ne!(some.modules[path].a, other.modules[path].a);
        assert!(some.modules[path].a.abs().max().double_value(&[]) <= 0.25, "1/sqrt(16)");
        assert_eq!(some.modules[path].b.abs().max().double_value(&[]), 0.0);
    }
}
