"""Shows an export in a browser: drop a picture on the page, see its classes or boxes; programs POST to /predict.

python tools/serve.py output/quickstart/export
python tools/serve.py output/detection/quickstart/export --port 8080 --backend paddle --threads 2
curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Show an export in a browser, and answer programs: POST /predict takes a picture (as the body, or "
        "in the field 'image' of a form), GET /model and GET /health describe the server."
    )
    add = parser.add_argument
    add("model", metavar="EXPORT_DIR", help="export folder of tools/export_model.py")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: only this computer; 0.0.0.0: "
        "every network, without any password)")
    add("--port", type=int, default=8000, metavar="N", help="default 8000; 0 takes any free one")
    add("--backend", metavar="NAME", help="engine (default: the runtime's for this export)")
    add("--precision", metavar="NAME", help="of an export that holds several (default: its first)")
    add("--threads", type=int, metavar="N", help="threads of the network (default: all cores)")
    add("--max-megabytes", type=float, default=20.0, metavar="MB", help="largest file that is taken (default 20)")
    add("--max-megapixels", type=float, default=50.0, metavar="MP", help="largest picture that is decoded (default 50)")
    add("--bits", type=int, metavar="N",
        help="bits in use where pictures have more than 8 bits a sample (default: as in the training)")
    add("--max-resized-megapixels", type=float, metavar="MP",
        help="refuse pictures that would be resized to more (default 64, or as the export says)")
    return parser.parse_args()  # fmt: skip


def interrupt(signal_number: int, frame: object) -> None:
    """Lets the request of a service manager or container to end (SIGTERM) end the server as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> None:
    """Loads the export, listens, and serves until Ctrl-C."""
    arguments = parse_arguments()
    from ppcls_ext.deploy.serve import OneThread, create_app, is_loopback, listen, run_until_interrupted
    from ppcls_ext.runtime import load
    from ppcls_ext.utils.log import set_up_logging

    set_up_logging()
    if not is_loopback(arguments.host):
        sys.stderr.write(
            f"warning: --host {arguments.host} lets every computer that reaches this one send pictures; "
            "there is neither a password nor encryption\n"
        )
    predictor = load(
        arguments.model, backend=arguments.backend, threads=arguments.threads, precision=arguments.precision,
        max_resized_megapixels=arguments.max_resized_megapixels, bits=arguments.bits,
    )  # fmt: skip
    with OneThread(predictor) as model:
        app = create_app(model, arguments.host, arguments.max_megabytes, arguments.max_megapixels)
        server = listen(app, arguments.host, arguments.port)
        # Only now: Paddle puts a handler of its own in place when it is loaded.
        signal.signal(signal.SIGTERM, interrupt)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        task = app.test_client().get("/model").json
        print(f"{task['name']} ({task['task']}, backend {task['backend']}) is at http://{host}:{server.port}/ "
              "(Ctrl-C stops it)", flush=True)  # fmt: skip
        run_until_interrupted(server)
    print("stopped")


if __name__ == "__main__":
    run(main)
