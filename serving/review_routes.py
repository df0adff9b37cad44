"""The review page over HTTP: who is let in, cookies and forms. What a form does is `serving.review`'s.

A form is taken only from a page of this service, with the token of its session. Every answer to one leads on to a page
(303), so that going back or loading again sends nothing a second time. The form to sign in by has a cookie of its own,
so that it never takes the place of a session's, which a browser does not send with a link of another site.
"""

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from serving.bodies import Bodies, kind_of
from serving.entry import Visitor, from_another_site, from_own_page
from serving.guard import ADMITTED, RULES, Rules
from serving.rates import Rates
from serving.refusal import Refusal
from serving.review import Reviews
from serving.review_asking import Asking
from serving.review_page import again, door, message, page
from serving.review_plot import svg
from serving.review_sessions import Session, Sessions, had_key, new_id
from serving.threads import Threads

LOG = logging.getLogger("bentoml.polarscore")
FORM, MOST_BYTES, MOST_FIELDS = "application/x-www-form-urlencoded", 65_536, 20
THREADS, WAITING = 2, 32
SESSION, DOOR = "polarscore-review", "polarscore-door"  # cookies: who is signed in, and to whom the form was shown
ENDED = "Your session has ended. Sign in again{}."
UP = "../"  # from what a form is sent to, to the page

NOBODY = Rules(lambda given: None, Rates(None))
"""Where no guard stands in front."""

Endpoint = Callable[[Request], Awaitable[Response]]
Guarded = Callable[[Endpoint, Callable[[Refusal], Response]], Endpoint]


def review_routes(bodies: Bodies, guarded: Guarded, refused: Callable[[Refusal], Response]) -> list[Route]:
    """The page's routes. guarded: makes an endpoint answer its failures; refused: as JSON, which the plot does."""
    sessions, threads, plotting = Sessions(), Threads(THREADS, WAITING), Threads(1, WAITING)
    made: list[Reviews] = []

    def reviews(request: Request) -> Reviews:
        desk = request.app.state.desk
        if not made or made[0].desk is not desk:
            made[:] = [getattr(request.app.state, "reviews", None) or Reviews(desk)]
        return made[0]

    def session_of(request: Request) -> Session | None:
        visitor = _visitor(request)
        found = sessions.find(_cookie(request), visitor.local, _rules(request).still)
        return None if found and visitor.key and found.key != visitor.key.id else found

    def end(request: Request) -> None:
        if session := session_of(request):
            reviews(request).leave(session)
        sessions.end(_cookie(request))

    async def show(request: Request) -> Response:
        asking, asks = Asking.of(request.query_params), request.query_params
        if from_another_site(request.headers):
            return HTMLResponse(again(quote(asking.address, safe="/?=&%+.-_~")))
        visitor, session, identity = _visitor(request), session_of(request), _cookie(request)
        ended = session is None and had_key(identity) and visitor.key is None and "local" not in asks
        if ended or (session is None and visitor.name is None) or "login" in asks:
            stranger = session is None and visitor.name is None
            problem = ENDED.format("" if stranger else ", or go on without a key, by another name") if ended else None
            return _door(request, sessions, problem, 401 if stranger else 200)
        if session is None and visitor.key:  # it comes with every request, so no cookie has to stand for it
            identity, session = "", sessions.passing(visitor)
        elif session is None:
            identity, session = sessions.begin(visitor)
        known, signed_in = session, session.key is not None
        view = await threads.run(lambda: reviews(request).look(known, asking, signed_in))
        return _with_cookie(request, HTMLResponse(page(view, sessions.token(identity))), SESSION, identity)

    async def plot(request: Request) -> Response:
        if session_of(request) is None and _visitor(request).name is None:
            raise Refusal("unauthorized", "sign in at the review page", status=401)
        version = request.query_params.get("version") or request.app.state.desk.scorer.version
        found = await plotting.run(lambda: reviews(request).reliability(version))
        return Response(svg(found, f"Reliability of version {version}"), media_type="image/svg+xml")

    async def login(request: Request) -> Response:
        form, rules = await _form(request, bodies), _rules(request)
        if not sessions.is_token(_cookie(request, DOOR), form.get("token", "")):
            return _door(request, sessions, "This form had expired, or the browser keeps no cookies. Try again.", 403)
        key = rules.find(form.get("key", "").strip())
        if key is None:
            rules.count("unauthorized")
            LOG.info("refused a key at the review page, from %s", request.client.host if request.client else "nowhere")
            await rules.rates.failure(request.client.host if request.client else None)
            return _door(request, sessions, "This API key is unknown, expired or revoked.", 401)
        if not key.allows("review"):
            return _door(request, sessions, "This API key lacks the scope review.", 403)
        end(request)
        identity, _ = sessions.begin(Visitor(key))
        return _with_cookie(request, _with_cookie(request, _to("review"), SESSION, identity), DOOR, None)

    async def logout(request: Request) -> Response:
        form = await _form(request, bodies)
        if sessions.is_token(_cookie(request), form.get("token", "")):
            end(request)
        return _with_cookie(request, _to("review"), SESSION, None)

    def acting(act: Callable[[Reviews, Session, dict[str, str]], Asking]) -> Endpoint:
        async def answer(request: Request) -> Response:
            form, session = await _form(request, bodies), session_of(request)
            visitor = _visitor(request)
            if session is None and visitor.key:
                raise Refusal("forbidden", "A key in a header has no session here, so nothing was saved. Sign in at "
                              "the page, or send labels to /feedback", status=403)
            if session is None and (visitor.name is None or had_key(_cookie(request))):
                return _door(request, sessions, "You are signed out, so nothing was saved. Sign in again.", 401)
            if session is None or not sessions.is_token(_cookie(request), form.get("token", "")):
                raise Refusal("stale_form", "The form was from another session, so nothing was saved. Open the page "
                              "again", status=403)
            known = session
            asking = await threads.run(lambda: act(reviews(request), known, form))
            return _to(asking.address)

        return answer

    gets = {"/review": (show, _as_page("")), "/review/plot.svg": (plot, refused)}
    posts = {"/review/login": login, "/review/logout": logout, "/review/label": acting(Reviews.label),
             "/review/undo": acting(Reviews.undo)}
    return [*(Route(path, guarded(endpoint, told), methods=["GET"]) for path, (endpoint, told) in gets.items()),
            *(Route(path, guarded(endpoint, _as_page(UP)), methods=["POST"]) for path, endpoint in posts.items())]


async def _form(request: Request, bodies: Bodies) -> dict[str, str]:
    """The fields of a form that a page of this service has sent.

    Raises:
        Refusal: it comes from elsewhere, is none, or is too large.
    """
    if not from_own_page(request.headers):
        raise Refusal("forbidden", "This form was sent from a page of another site, so nothing was done", status=403)
    kind_of(request, FORM)
    limits = request.app.state.config.limits.model_copy(update={"body": MOST_BYTES})
    async with bodies.body(request, limits) as body:
        try:
            return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
        except ValueError:
            raise Refusal("invalid_request", "This is no form of the review page") from None


def _visitor(request: Request) -> Visitor:
    found: Visitor = request.scope.get(ADMITTED) or Visitor()
    return found


def _rules(request: Request) -> Rules:
    found: Rules = request.scope.get(RULES) or NOBODY
    return found


def _door(request: Request, sessions: Sessions, problem: str | None, status: int) -> Response:
    """The form to sign in by, tied to the browser by an id that is no session's."""
    identity = _cookie(request, DOOR) or new_id()
    root = "" if request.url.path.endswith("/review") else UP
    headers = {"WWW-Authenticate": 'Bearer realm="polarscore"'} if status == 401 else None
    html = door(sessions.token(identity), root, problem, _visitor(request).local)
    return _with_cookie(request, HTMLResponse(html, status, headers), DOOR, identity)


def _as_page(root: str) -> Callable[[Refusal], Response]:
    def told(refusal: Refusal) -> Response:
        words = refusal.message[:1].upper() + refusal.message[1:]
        return HTMLResponse(message("This did not work", words, root), refusal.status, dict(refusal.headers))

    return told


def _to(address: str) -> Response:
    return RedirectResponse(quote(f"{UP}{address}", safe="/?=&%+.-_~"), 303)


def _cookie(request: Request, what: str = SESSION) -> str:
    return request.cookies.get(_cookie_name(request, what), "")


def _cookie_name(request: Request, what: str) -> str:
    return f"__Host-{what}" if request.url.scheme == "https" else what


def _with_cookie(request: Request, response: Response, what: str, identity: str | None) -> Response:
    """identity None: the cookie goes; empty: there is none to keep."""
    name, secure = _cookie_name(request, what), request.url.scheme == "https"
    if identity is None:
        response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
    elif identity and identity != _cookie(request, what):
        response.set_cookie(name, identity, path="/", secure=secure, httponly=True, samesite="strict")
    return response
