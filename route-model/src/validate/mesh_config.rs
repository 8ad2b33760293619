//! The rules for the MeshConfig.

use super::{Report, load_balancer, scope};
use crate::field::Place;
use crate::kinds::MeshConfig;

pub(super) fn check(config: &MeshConfig, at: &Place<'_>, report: &mut Report) {
    let lists = [
        ("defaultServiceExportTo", &config.default_service_export_to),
        ("defaultVirtualServiceExportTo", &config.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &config.default_destination_rule_export_to),
    ];
    for (field, values) in lists {
        // There is no own namespace that `.` could repeat.
        scope::export_to(values, ".", true, &at.field(field), report);
    }
    if let Some(locality) = &config.locality_lb_setting {
        load_balancer::check_locality(locality, &at.field("localityLbSetting"), report);
    }
}
