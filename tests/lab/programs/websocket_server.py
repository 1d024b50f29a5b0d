"""A WebSocket server: websocket_server.py PORT, with the distribution's python3-websockets.

Each client is sent `tick 1`, `tick 2`, … ten times a second, and each of its messages back, with `echo ` before it.
"""

import asyncio
import itertools
import sys

import websockets

INTERVAL = 0.1  # seconds


async def send_ticks(connection):
    for number in itertools.count(1):
        await connection.send(f"tick {number}")
        await asyncio.sleep(INTERVAL)


async def serve(connection):
    ticks = asyncio.create_task(send_ticks(connection))
    try:
        async for message in connection:
            await connection.send(f"echo {message}")
    finally:
        ticks.cancel()


async def main():
    async with websockets.serve(serve, None, int(sys.argv[1])):
        await asyncio.Event().wait()


asyncio.run(main())
