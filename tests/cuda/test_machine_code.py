"""Instructions counted in machine code: of a text that is known, and of the kernels."""

from __future__ import annotations

import machine_code
import nvrtc
import pytest

TEXT = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E R2, desc[UR4][R4.64] ;
        /*0020*/               @P0 BRA `(.L_x_2) ;
        /*0030*/                   FFMA.FTZ R3, R2, R2, R3 ;
        /*0040*/                   FFMA.FTZ R3, R2, R2, R3 ;
        /*0050*/                   FSETP.GE.FTZ.AND P1, PT, R3, R2, PT ;
        /*0060*/               @P1 BRA `(.L_x_1) ;
        /*0070*/                   MUFU.RCP R3, R3 ;
        /*0080*/                   FFMA.FTZ R3, R2, R2, R3 ;
.L_x_1:
        /*0090*/               @P2 BRA `(.L_x_0) ;
.L_x_2:
        /*00a0*/                   EXIT ;
.L_x_3:
        /*00b0*/                   BRA `(.L_x_3);
"""


def test_the_shortest_round_with_all_multiply_adds_is_the_loop() -> None:
    assert len(machine_code.hot_loop(TEXT, 2)) == 7  # past what is seldom done
    assert "MUFU.RCP R3, R3" in machine_code.hot_loop(TEXT, 4)
    with pytest.raises(SystemExit, match="no loop has 8 multiply-adds"):
        machine_code.hot_loop(TEXT, 8)


def test_without_the_disassembler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "disassembler", lambda: None)
    with pytest.raises(SystemExit, match="pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm"):
        machine_code.main(["--arch", "90"])


def test_another_loop_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        machine_code.main(["--case", "sort"])
    assert "--case must be a part of a loop's name, got 'sort'" in capsys.readouterr().err


@pytest.mark.skipif(
    not nvrtc.compilers() or machine_code.disassembler() is None,
    reason="NVIDIA's compiler or disassembler is not installed",
)
@pytest.mark.parametrize(
    ("number", "arch", "most"),
    [
        (0, 90, 9.6),
        (1, 90, 8.2),
        (0, 100, 9.7),
        (1, 100, 8.3),
        (5, 90, 4.8),
        (6, 90, 4.4),
        (7, 90, 8.3),
        (8, 90, 4.7),
        (9, 90, 3.7),
    ],
)
def test_hot_loops_have_no_more_instructions_than_the_page_says(number: int, arch: int, most: float) -> None:
    """Addresses put together anew for every weight would be three more, sums that are not fused two."""
    if nvrtc.compiler_for(arch) is None:
        pytest.skip(f"no installed compiler knows sm_{arch}")
    case = machine_code.CASES[number]
    assert machine_code.count(case, arch).instructions / case.pairs < most
