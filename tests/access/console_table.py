"""What each role gets at each page of the console: anonymous, outsider, staff, viewer, operator, administrator.

An outsider is an account without access to the admin, staff one with access and without a role. "login": sent to the
log-in. 200 and 302 are a page and what a form leads to; 404 and 405 are what those who may come so far are told.
"""

from typing import Final

# Addresses of pages whose pattern is an expression.
PATHS: Final = {
    "admin/django_rq/dashboard/^stats.json/(?P<token>[\\w]+)?/?$": "/admin/django_rq/dashboard/stats.json/abc",
    "admin/(?P<url>.*)$": "/admin/nowhere/",
    "django_rq_home_json": "/admin/django_rq/dashboard/stats.json",
    "django_rq_metrics": "/admin/django_rq/dashboard/metrics",
    "app_list": "/admin/integrations/",
    "integrations_auditentry_export": "/admin/integrations/auditentry/export/csv/",
}

GET: Final = {
    "200 200 302 302 302 302": """
        login
    """,
    "302 302 405 405 405 405": """
        logout
    """,
    "401 403 403 200 200 200": r"""
        django_rq_home_json admin/django_rq/dashboard/^stats.json/(?P<token>[\w]+)?/?$ django_rq_metrics
    """,
    "login 403 403 200 200 200": """
        django_rq_home django_rq_jobs django_rq_queue_details django_rq_finished_jobs django_rq_failed_jobs
        django_rq_scheduled_jobs django_rq_started_jobs django_rq_deferred_jobs django_rq_job_detail
        django_rq_requeue_job django_rq_enqueue_job django_rq_workers django_rq_dashboard_changelist
    """,
    "login 403 403 302 302 302": """
        django_rq_actions
    """,
    "login 403 403 403 200 200": """
        django_rq_delete_failed_jobs django_rq_clear django_rq_requeue_all django_rq_delete_job
    """,
    "login 403 403 403 302 302": """
        django_rq_confirm_action
    """,
    "login 403 403 404 404 404": """
        django_rq_result_detail django_rq_cron_scheduler_detail django_rq_cron_job_detail
        django_rq_worker_details
    """,
    "login 403 403 405 405 405": """
        django_rq_stop_job
    """,
    "login login 200 200 200 200": """
        console-live console-charts search index password_change password_change_done jsi18n
    """,
    "login login 302 302 302 302": """
        admin/integrations/endpoint/<path:object_id>/ admin/integrations/apikey/<path:object_id>/
        admin/integrations/modelconfig/<path:object_id>/
        admin/integrations/patternassignment/<path:object_id>/ admin/integrations/callrecord/<path:object_id>/
        admin/integrations/callstats/<path:object_id>/ admin/integrations/breakerevent/<path:object_id>/
        admin/integrations/auditentry/<path:object_id>/ admin/integrations/configversion/<path:object_id>/
        admin/integrations/canary/<path:object_id>/
        admin/batches/batchjob/<path:object_id>/ admin/batches/workerheartbeat/<path:object_id>/
        admin/batches/filebatch/<path:object_id>/ admin/batches/storedfile/<path:object_id>/
        admin/auth/user/<path:object_id>/ admin/auth/group/<path:object_id>/
    """,
    "login login 403 200 200 200": """
        integrations_canary_changelist integrations_canary_history integrations_canary_change
        breakers breakers-live integrations_endpoint_changelist integrations_endpoint_history
        integrations_endpoint_change integrations_apikey_changelist integrations_apikey_history
        integrations_apikey_change integrations_modelconfig_state integrations_modelconfig_changelist
        integrations_modelconfig_history integrations_modelconfig_change
        integrations_patternassignment_changelist integrations_patternassignment_history
        integrations_patternassignment_change integrations_callrecord_changelist
        integrations_callrecord_history integrations_callrecord_change integrations_callstats_changelist
        integrations_callstats_history integrations_callstats_change integrations_breakerevent_changelist
        integrations_breakerevent_history integrations_breakerevent_change integrations_auditentry_changelist
        integrations_auditentry_history integrations_auditentry_change integrations_configversion_changelist
        integrations_configversion_history integrations_configversion_change batches_batchjob_live
        batches_batchjob_download batches_batchjob_changelist batches_batchjob_history batches_batchjob_change
        batches_queue batches_queue_live batches_workerheartbeat_changelist batches_workerheartbeat_history
        batches_workerheartbeat_change integrations_auditentry_export
        batches_filebatch_live batches_filebatch_changelist batches_filebatch_history batches_filebatch_change
        batches_storedfile_changelist batches_storedfile_history batches_storedfile_change
    """,
    "login login 403 403 200 200": """
        batches_filebatch_cancel batches_filebatch_retry
        integrations_modelconfig_drain integrations_modelconfig_undrain batches_batchjob_cancel
        batches_batchjob_retry batches_batchjob_priority
    """,
    "login login 403 403 302 302": """
        breakers-trip breakers-reset
    """,
    "login login 403 403 403 200": """
        integrations_apikey_revoke integrations_apikey_add integrations_modelconfig_add
        integrations_modelconfig_delete
    """,
    "login login 403 403 403 403": """
        integrations_canary_add integrations_canary_delete
        autocomplete integrations_endpoint_add integrations_endpoint_delete integrations_apikey_delete
        integrations_patternassignment_add integrations_patternassignment_delete integrations_callrecord_add
        integrations_callrecord_delete integrations_callstats_add integrations_callstats_delete
        integrations_breakerevent_add integrations_breakerevent_delete integrations_auditentry_add
        integrations_auditentry_delete integrations_configversion_add integrations_configversion_delete
        batches_filebatch_add batches_filebatch_delete batches_storedfile_add batches_storedfile_delete
        batches_batchjob_add batches_batchjob_delete batches_workerheartbeat_add
        batches_workerheartbeat_delete auth_user_password_change auth_user_changelist auth_user_add
        auth_user_history auth_user_delete auth_user_change auth_group_changelist auth_group_add
        auth_group_history auth_group_delete auth_group_change
    """,
    "login login 403 403 403 405": """
        integrations_modelconfig_probe
    """,
    "login login 404 200 200 200": """
        app_list
    """,
    "login login 404 404 404 404": """
        view_on_site admin/(?P<url>.*)$
    """,
}

POST: Final = {
    "200 200 200 200 200 200": """
        login
    """,
    "302 302 200 200 200 200": """
        logout
    """,
    "401 403 403 403 200 200": r"""
        django_rq_home_json admin/django_rq/dashboard/^stats.json/(?P<token>[\w]+)?/?$ django_rq_metrics
    """,
    "login 403 403 403 200 200": """
        django_rq_home django_rq_jobs django_rq_queue_details django_rq_finished_jobs django_rq_failed_jobs
        django_rq_scheduled_jobs django_rq_started_jobs django_rq_deferred_jobs django_rq_job_detail
        django_rq_workers django_rq_dashboard_changelist
    """,
    "login 403 403 403 302 302": """
        django_rq_delete_failed_jobs django_rq_clear django_rq_requeue_all django_rq_delete_job
        django_rq_enqueue_job django_rq_stop_job django_rq_confirm_action django_rq_actions
    """,
    "login 403 403 403 404 404": """
        django_rq_result_detail django_rq_requeue_job django_rq_cron_scheduler_detail
        django_rq_cron_job_detail django_rq_worker_details
    """,
    "login login 200 200 200 200": """
        console-live console-charts search index password_change
    """,
    "login login 302 302 302 302": """
        admin/integrations/endpoint/<path:object_id>/ admin/integrations/apikey/<path:object_id>/
        admin/integrations/modelconfig/<path:object_id>/
        admin/integrations/patternassignment/<path:object_id>/ admin/integrations/callrecord/<path:object_id>/
        admin/integrations/callstats/<path:object_id>/ admin/integrations/breakerevent/<path:object_id>/
        admin/integrations/auditentry/<path:object_id>/ admin/integrations/configversion/<path:object_id>/
        admin/integrations/canary/<path:object_id>/
        admin/batches/batchjob/<path:object_id>/ admin/batches/workerheartbeat/<path:object_id>/
        admin/batches/filebatch/<path:object_id>/ admin/batches/storedfile/<path:object_id>/
        admin/auth/user/<path:object_id>/ admin/auth/group/<path:object_id>/
    """,
    "login login 403 200 200 200": """
        integrations_auditentry_export
        integrations_canary_changelist integrations_canary_history
        breakers breakers-live integrations_endpoint_changelist integrations_endpoint_history
        integrations_apikey_changelist integrations_apikey_history integrations_modelconfig_state
        integrations_modelconfig_changelist integrations_modelconfig_history
        integrations_patternassignment_changelist integrations_patternassignment_history
        integrations_callrecord_changelist integrations_callrecord_history integrations_callstats_changelist
        integrations_callstats_history integrations_breakerevent_changelist integrations_breakerevent_history
        integrations_auditentry_changelist integrations_auditentry_history
        integrations_configversion_changelist integrations_configversion_history batches_batchjob_live
        batches_batchjob_download batches_batchjob_changelist batches_batchjob_history batches_queue
        batches_filebatch_live batches_filebatch_changelist batches_filebatch_history
        batches_storedfile_changelist batches_storedfile_history
        batches_queue_live batches_workerheartbeat_changelist batches_workerheartbeat_history
    """,
    "login login 403 403 200 200": """
        batches_filebatch_retry integrations_modelconfig_drain batches_batchjob_retry batches_batchjob_priority
    """,
    "login login 403 403 302 302": """
        breakers-trip breakers-reset integrations_modelconfig_undrain batches_batchjob_cancel
        batches_filebatch_cancel
    """,
    "login login 403 403 403 200": """
        integrations_apikey_add integrations_modelconfig_probe integrations_modelconfig_add
        integrations_modelconfig_delete integrations_modelconfig_change
    """,
    "login login 403 403 403 302": """
        integrations_apikey_revoke
    """,
    "login login 403 403 403 403": """
        integrations_canary_add integrations_canary_delete integrations_canary_change
        integrations_endpoint_add integrations_endpoint_delete integrations_endpoint_change
        integrations_apikey_delete integrations_apikey_change integrations_patternassignment_add
        integrations_patternassignment_delete integrations_patternassignment_change
        integrations_callrecord_add integrations_callrecord_delete integrations_callrecord_change
        integrations_callstats_add integrations_callstats_delete integrations_callstats_change
        integrations_breakerevent_add integrations_breakerevent_delete integrations_breakerevent_change
        integrations_auditentry_add integrations_auditentry_delete integrations_auditentry_change
        integrations_configversion_add integrations_configversion_delete integrations_configversion_change
        batches_filebatch_add batches_filebatch_delete batches_filebatch_change batches_storedfile_add
        batches_storedfile_delete batches_storedfile_change
        batches_batchjob_add batches_batchjob_delete batches_batchjob_change batches_workerheartbeat_add
        batches_workerheartbeat_delete batches_workerheartbeat_change auth_user_password_change
        auth_user_changelist auth_user_add auth_user_history auth_user_delete auth_user_change
        auth_group_changelist auth_group_add auth_group_history auth_group_delete auth_group_change
    """,
    "login login 404 200 200 200": """
        app_list
    """,
    "login login 404 404 404 404": """
        view_on_site admin/(?P<url>.*)$
    """,
    "login login 405 405 405 405": """
        password_change_done autocomplete jsi18n
    """,
}
