"""SLURM jobs: what a cluster is handed, next to another cluster's dashboard."""

import socket

from andersonn_core.sweeps.engines import Slurm


def test_a_job_script_is_had_where_the_usual_port_of_dashboards_is_taken():
    """With warnings as errors, as the tests are run."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("", 8787))
            taken.listen()
        except OSError:  # taken by somebody else: as good
            pass
        script = Slurm(memory="2GB", walltime="00:30:00", queue="short").job_script()
    lines = script.splitlines()
    assert {"#SBATCH -p short", "#SBATCH --mem=2G", "#SBATCH -t 00:30:00"} <= set(lines)
    assert "export OMP_NUM_THREADS=1" in lines
