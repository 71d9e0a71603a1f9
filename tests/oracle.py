"""The acceptance oracle, in a process of its own: writes down what edges say they accepted.

    python tests/oracle.py SOCKET FILE

It listens on the unix stream socket and appends every complete line to FILE. A line cut short by a
killed edge is dropped: an edge that died while telling has told nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path


async def main(socket: str, out: Path) -> None:
    with out.open("ab", buffering=0) as file:

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (line := await reader.readline()).endswith(b"\n"):
                file.write(line)
            writer.close()

        server = await asyncio.start_unix_server(listen, socket)
        print(json.dumps({"ready": True}), flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
