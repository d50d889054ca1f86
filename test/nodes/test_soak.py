"""A short round of faults on real nodes; `make soak` has all of them, for as long as you like."""

import pytest
from support import soak

from depth_ros.ros.transport import prepare_process

SHORT = (soak.corrupt_images, soak.camera_infos, soak.clocks, soak.model_files, soak.killed)


@pytest.mark.slow
def test_both_nodes_answer_after_each_fault():
    prepare_process()
    findings = soak.soak(0, SHORT)
    assert findings.crashes == [] and findings.lost == []
    assert len(findings.tried) == len(SHORT) and all(findings.tried.values())


def test_growth_is_told_from_the_second_round_on():
    findings = soak.Findings()
    findings.memory_mb['perception_node'] = [100.0, 200.0]
    assert findings.growth('perception_node') is None
    findings.memory_mb['perception_node'] += [210.0, 204.0]
    assert findings.growth('perception_node') == pytest.approx(2.0)
    assert 'growth after the second: +2.0 %' in soak.table(findings)
