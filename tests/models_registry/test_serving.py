from __future__ import annotations

from models_registry import serving


class TestUrls:
    def test_gives_each_model_a_socket(self, settings) -> None:
        settings.ENGINE_IS_OURS = True
        settings.MODELS = ["demo", "mine"]

        assert serving.url_of("demo") == settings.ENGINE_URL
        assert serving.url_of("mine").startswith(f"unix://{settings.SOCKETS}/engine-")
        assert serving.urls() == [serving.url_of("demo"), serving.url_of("mine")]

    def test_keeps_a_long_name_out_of_the_path(self, settings) -> None:
        settings.ENGINE_IS_OURS = True

        assert len(serving.url_of("m" * 50)) == len(serving.url_of("mine"))

    def test_knows_one_engine_when_somebody_else_runs_it(self, settings) -> None:
        settings.ENGINE_IS_OURS = False
        settings.MODELS = ["demo", "mine"]

        assert serving.urls() == [settings.ENGINE_URL]
