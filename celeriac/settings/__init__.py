"""Settings: typed data from ``celeriac.toml``, with scalars overridden by the environment.

``CELERIAC_CONFIG`` names the file; without it, ``celeriac.toml`` in the current folder is read if
it is there. ``CELERIAC_<SECTION>_<SETTING>`` overrides one scalar: ``CELERIAC_BROKER_URL`` is
``url`` in ``[broker]``. Nothing is read when this module is imported: call :func:`load_settings`.
"""

from __future__ import annotations

from celeriac.settings.loading import (
    check_broker_url,
    config_path,
    get_settings,
    hide_password,
    load_settings,
    scalars,
)
from celeriac.settings.nightly import NightlySettings
from celeriac.settings.tables import (
    AlertSettings,
    BatchSettings,
    BrokerSettings,
    CacheSettings,
    DriftSettings,
    FeedbackSettings,
    FlowerSettings,
    GatewaySettings,
    GpuSettings,
    KeySettings,
    LogSettings,
    ModelsSettings,
    ModerationSettings,
    RealtimeSettings,
    SensorSettings,
    Settings,
    StackSettings,
    SubmissionSettings,
    WorkerSettings,
)

__all__ = [
    "AlertSettings", "BatchSettings", "BrokerSettings", "CacheSettings", "DriftSettings",
    "FeedbackSettings", "FlowerSettings", "GatewaySettings", "GpuSettings", "KeySettings",
    "LogSettings", "ModelsSettings", "ModerationSettings", "NightlySettings",
    "RealtimeSettings", "SensorSettings", "Settings", "StackSettings", "SubmissionSettings",
    "WorkerSettings", "check_broker_url", "config_path", "get_settings", "hide_password",
    "load_settings", "scalars",
]
