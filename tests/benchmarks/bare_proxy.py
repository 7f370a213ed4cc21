"""A proxy of aiohttp alone, which hands each request on and its answer back: what the language and its libraries cost.

    python -m tests.benchmarks.bare_proxy --upstream http://127.0.0.1:9000 --port 9001

It knows no keys, records, checks or second servers. What Citadel takes beyond it is Citadel's own.
"""

import argparse
import asyncio
import gc

import aiohttp
import uvloop
from aiohttp import web


async def _serve(options: argparse.Namespace) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def hand_on(request: web.Request) -> web.Response:
            sent = {"Content-Type": "application/json"}
            async with session.post(options.upstream + request.path, data=await request.read(), headers=sent) as answer:
                return web.Response(body=await answer.read(), content_type="application/json")

        application = web.Application()
        application.router.add_post("/{path:.*}", hand_on)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", options.port).start()
        gc.freeze()
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args()))
